package gateway

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRawConnection(t *testing.T) {
	w := newWorld(t, 0)
	w.net.serve(t, 22, echo)
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	if _, err := c.Write([]byte("SSH-2.0-x\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "SSH-2.0-x\r\n" {
		t.Fatalf("%q, %v", b, err)
	}
	if d := w.net.dials(); len(d) != 1 || d[0] != public.String()+":22" {
		t.Fatalf("dialled %v", d)
	}
}

func TestTLSConnection(t *testing.T) {
	w := newWorld(t, 0)
	pair, roots := certificate(t, "example.com")
	w.net.serve(t, 443, func(c net.Conn) { echo(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})) })
	c := w.guest.mustDial(w.guest.resolve("EXAMPLE.com"), 443)
	tc := tls.Client(c, &tls.Config{ServerName: "EXAMPLE.com", RootCAs: roots})
	if _, err := tc.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(tc, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q, %v", buf, err)
	}
}

func TestHTTPConnection(t *testing.T) {
	w := newWorld(t, 0)
	serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Host", r.Host)
		_, _ = rw.Write(append([]byte(r.URL.Path+" "), b...))
	}))
	c := w.guest.mustDial(w.guest.resolve("example.com"), 80)
	client := guestClient(c)
	for _, body := range []string{"", "one", strings.Repeat("x", 300_000)} {
		resp, err := client.Post("http://example.com/p", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "/p "+body || resp.Header.Get("X-Host") != "example.com" {
			t.Fatalf("%d bytes, host %q, %v", len(b), resp.Header.Get("X-Host"), err)
		}
	}
	if d := w.net.dials(); len(d) != 1 {
		t.Fatalf("dialled %v, want one connection for all requests", d)
	}
}

// TestSlowReaderGetsAll: a server that closes early must not cost a guest that
// reads late its last bytes.
func TestSlowReaderGetsAll(t *testing.T) {
	w := newWorld(t, 0)
	const size = 3 << 20
	w.net.serve(t, 22, func(c net.Conn) { _, _ = c.Write(make([]byte, size)) })
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if n, err := io.Copy(io.Discard, c); err != nil || n != size {
		t.Fatalf("%d of %d bytes, %v", n, size, err)
	}
}

func TestDialGuest(t *testing.T) {
	w := newWorld(t, 0)
	l := w.guest.listen(8080)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			echo(c)
			c.Close()
		}
	}()
	c, err := w.DialGuest(t.Context(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("%q, %v", buf, err)
	}
	if _, err := w.DialGuest(t.Context(), 8081); err == nil {
		t.Fatal("a closed port of the guest accepted")
	}
}

func TestEndOfTheLinkEndsTheGateway(t *testing.T) {
	w := newWorld(t, 0)
	w.guest.wire.Close()
	select {
	case <-w.Done():
	case <-time.After(patient):
		t.Fatal("the gateway lives on without a link")
	}
	if _, err := w.DialGuest(t.Context(), 22); err == nil {
		t.Fatal("dialled a guest that is gone")
	}
}
