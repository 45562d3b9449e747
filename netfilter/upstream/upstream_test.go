package upstream

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxyAt makes a proxy of a handler of connections, on loopback.
func proxyAt(t *testing.T, scheme, user string, handle func(net.Conn)) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return mustURL(t, scheme+"://"+user+l.Addr().String())
}

func mustURL(t *testing.T, raw string, direct ...string) *Proxy {
	t.Helper()
	p, err := FromURL(raw, direct...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// head reads what was said up to the empty line.
func head(in *bufio.Reader) string {
	var all strings.Builder
	for {
		line, err := in.ReadString('\n')
		all.WriteString(line)
		if err != nil || line == "\r\n" {
			return all.String()
		}
	}
}

// answering is an HTTP proxy that says one thing, and then returns all that comes.
func answering(answer string, asked chan<- string) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		asked <- head(in)
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(c, in)
	}
}

func timeLimit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// echoed sends, ends its direction and gives all that came.
func echoed(t *testing.T, c net.Conn, words string) string {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConnect(t *testing.T) {
	for name, c := range map[string]struct{ user, name, want string }{
		"name":        {"", "example.com", "CONNECT example.com:22 HTTP/1.1\r\nHost: example.com:22\r\n\r\n"},
		"address":     {"", "2001:db8::1", "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n"},
		"credentials": {"me:p%40ss@", "example.com", "CONNECT example.com:22 HTTP/1.1\r\nHost: example.com:22\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 1)
			// The server speaks first, in the same segment as the answer.
			p := proxyAt(t, "http", c.user, answering("HTTP/1.1 200 OK\r\nX: y\r\n\r\nSSH-2.0\n", asked))
			conn, err := p.DialName(timeLimit(t), c.name, 22)
			if err != nil {
				t.Fatal(err)
			}
			if got := echoed(t, conn, "hello"); got != "SSH-2.0\nhello" {
				t.Errorf("came %q", got)
			}
			if got := <-asked; got != c.want {
				t.Errorf("said %q, want %q", got, c.want)
			}
		})
	}
}

func TestConnectOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			http.Error(rw, "other", http.StatusBadRequest)
			return
		}
		c, in, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(c, in)
	}))
	t.Cleanup(s.Close)
	p := mustURL(t, s.URL)
	if _, err := p.DialName(timeLimit(t), "example.com", 443); err == nil {
		t.Error("a certificate that nobody vouches for was taken")
	}
	p.roots = x509.NewCertPool()
	p.roots.AddCert(s.Certificate())
	conn, err := p.DialName(timeLimit(t), "example.com", 443)
	if err != nil {
		t.Fatal(err)
	}
	if got := echoed(t, conn, "hello"); got != "hello" {
		t.Errorf("came %q", got)
	}
}

func TestConnectFails(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for name, c := range map[string]struct{ answer, want string }{
		"asks for a password":  {"HTTP/1.1 407 \x1b[31mgo away\r\nProxy-Authenticate: Basic\r\n\r\n", errCredentials.Error()},
		"refuses":              {"HTTP/1.1 403 \x1b[31mnever\r\n\r\n", "it answered 403 Forbidden"},
		"is no server of ours": {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "it answered 101"},
		"redirects":            {"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", "it answered 302"},
		"no HTTP":              {"220 smtp.example ESMTP\r\n\r\n", errHead.Error()},
		"long line":            {"HTTP/1.1 200 OK\r\nX: " + long + long, errHead.Error()},
		"many lines":           {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+long+"\r\n", 6) + "\r\n", errHead.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 1)
			conn, err := proxyAt(t, "http", "me:hunter2@", answering(c.answer, asked)).DialName(timeLimit(t), "example.com", 443)
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			if !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\x1b") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q, want %q", err, c.want)
			}
		})
	}
}

func TestProxyClosesEarly(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, first := range []string{"", "HTTP/1.1 200", "\x05\x00"} {
			p := proxyAt(t, scheme, "", func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1024))
				_, _ = io.WriteString(c, first)
			})
			if conn, err := p.DialName(timeLimit(t), "example.com", 443); err == nil {
				conn.Close()
				t.Errorf("%s, after %q: connected", scheme, first)
			}
		}
	}
}

// TestProxyIsSlow: the context is the bound on a proxy that takes a connection and says nothing.
func TestProxyIsSlow(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			ctx, cancel := context.WithCancel(timeLimit(t))
			p := proxyAt(t, scheme, "", func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1024))
				cancel()
				_, _ = io.Copy(io.Discard, c) // until the other side gives up
			})
			conn, err := p.DialName(ctx, "example.com", 443)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestConnectionOutlivesItsContext: dialling is bounded, what was dialled is not.
func TestConnectionOutlivesItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := proxyAt(t, "http", "", answering("HTTP/1.1 200 OK\r\n\r\n", make(chan string, 1))).DialName(ctx, "example.com", 443)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	if got := echoed(t, conn, "hello"); got != "hello" {
		t.Errorf("came %q", got)
	}
}

func TestNamesThatNoProxyIsAskedFor(t *testing.T) {
	p := mustURL(t, "http://127.0.0.1:1")
	for _, name := range []string{"", "a b", "a\r\nX: y", "a/b", "a@b", "EXAMPLE.com", "é.test", "a%00", strings.Repeat("a", 254)} {
		if _, err := p.DialName(timeLimit(t), name, 443); err == nil || strings.Contains(err.Error(), "reach") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
