package intercept

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// captured keeps what a TLS client writes and has nothing to read.
type captured struct {
	net.Conn
	bytes.Buffer
}

func (c *captured) Write(b []byte) (int, error)    { return c.Buffer.Write(b) }
func (*captured) Read([]byte) (int, error)         { return 0, io.EOF }
func (*captured) Close() error                     { return nil }
func (*captured) SetWriteDeadline(time.Time) error { return nil }

func clientHello(name string) []byte {
	c := new(captured)
	_ = tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	return c.Bytes()
}

func TestReadHello(t *testing.T) {
	sent := clientHello("Example.com")
	extra := append(append([]byte{}, sent...), "early data"...)
	hello, raw, err := ReadHello(bytes.NewReader(extra))
	if err != nil || hello.ServerName != "Example.com" || !bytes.HasPrefix(extra, raw) || len(raw) < len(sent) {
		t.Fatalf("%+v, %d of %d bytes, %v", hello, len(raw), len(sent), err)
	}
	if err := hello.Check("example.com"); err != nil {
		t.Error(err)
	}
	if err := hello.Check("other.example"); !errors.Is(err, ErrName) {
		t.Errorf("%v, want ErrName", err)
	}
}

func TestHelloCheck(t *testing.T) {
	for _, c := range []struct {
		hello Hello
		want  error
	}{
		{Hello{}, ErrNoSNI},
		{Hello{ServerName: "example.com", ECH: true}, ErrECH},
		{Hello{ServerName: "example.com."}, ErrName},
		{Hello{ServerName: "example.com\x00"}, ErrName},
		{Hello{ServerName: "example.com "}, ErrName},
		{Hello{ServerName: "ex\u212ample.com"}, ErrName},
		{Hello{ServerName: "EXAMPLE.COM"}, nil},
	} {
		if err := c.hello.Check("example.com"); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%+v: %v, want %v", c.hello, err, c.want)
		}
	}
}

// TestHelloHidesNoName: every extension in which a second name can travel is seen.
func TestHelloHidesNoName(t *testing.T) {
	plain := clientHello("example.com")
	for extension, hides := range map[uint16]bool{0xfe0d: true, 0xfe0a: true, 0xff02: true, 0xffce: true, 0xfafa: false, 0x3374: false} {
		hello, _, err := ReadHello(bytes.NewReader(withExtension(plain, extension)))
		if err != nil || hello.ECH != hides {
			t.Errorf("%#x: %+v, %v", extension, hello, err)
		}
	}
}

// withExtension adds an empty extension to a hello of one record.
func withExtension(hello []byte, extension uint16) []byte {
	out := binary.BigEndian.AppendUint16(bytes.Clone(hello), extension)
	out = append(out, 0, 0)
	longer := func(at int) {
		binary.BigEndian.PutUint16(out[at:], binary.BigEndian.Uint16(out[at:])+4)
	}
	longer(3)                                  // of the record
	longer(7)                                  // of the message, whose length has three bytes
	at := 43 + 1 + int(out[43])                // version, random, session
	at += 2 + int(out[at])<<8 + int(out[at+1]) // cipher suites
	at += 1 + int(out[at])                     // compression
	longer(at)
	return out
}

func TestSniff(t *testing.T) {
	for first, want := range map[byte]Protocol{0x16: TLS, 'G': HTTP, 'P': HTTP, 0x17: Unknown, 0: Unknown, 'g': Unknown, 0x80: Unknown} {
		if got := Sniff(first); got != want {
			t.Errorf("%#x: %v, want %v", first, got, want)
		}
	}
}

// TestRequestIsWrittenAnew pins what a server sees of what a client wrote.
func TestRequestIsWrittenAnew(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"GET /a?b=%2F HTTP/1.1\r\nhost: EXAMPLE.com.\r\n\r\n", "GET /a?b=%2F HTTP/1.1\r\nHost: example.com\r\n\r\n"},
		{"GET //evil.test/ HTTP/1.1\r\nHost: example.com:80\r\n\r\n", "GET //evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n"},
		{"GET http://example.com/a HTTP/1.1\r\nHost: example.com\r\n\r\n", "GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"},
		{"OPTIONS * HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\n\r\n"},
		{"PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi", "PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi"},
		{"PUT / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nT: v\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"},
	} {
		req, err := ReadRequest(bufio.NewReaderSize(strings.NewReader(c.in), MaxHead), "example.com", 80)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		var out bytes.Buffer
		if err := req.WriteTo(&out, "example.com"); err != nil || out.String() != c.out {
			t.Errorf("%q became %q, %v", c.in, out.String(), err)
		}
	}
}

func TestReadRequestEnds(t *testing.T) {
	for in, want := range map[string]error{"": io.EOF, "GET / HT": io.ErrUnexpectedEOF, "GET / HTTP/1.1\r\nHost: example.com\r\n": io.ErrUnexpectedEOF} {
		if _, err := ReadRequest(bufio.NewReaderSize(strings.NewReader(in), MaxHead), "example.com", 80); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func TestRelay(t *testing.T) {
	for _, c := range []struct {
		name, method, in, out string
		again                 bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", true},
		{"until close", "GET", "HTTP/1.0 200 OK\r\n\r\nhi", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", false},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", true},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true},
		{"interim", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
	} {
		request := &Request{Request: &http.Request{Method: c.method}}
		var out bytes.Buffer
		_, again, err := NewResponses(strings.NewReader(c.in)).Relay(&out, request, func(http.Header) {})
		if err != nil || out.String() != c.out || again != c.again {
			t.Errorf("%s: %q, again %v, %v", c.name, out.String(), again, err)
		}
	}
}

func TestRelayBoundsTheHead(t *testing.T) {
	in := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", maxResponseHead) + "\r\n\r\n"
	request := &Request{Request: &http.Request{Method: http.MethodGet}}
	if _, _, err := NewResponses(strings.NewReader(in)).Relay(io.Discard, request, func(http.Header) {}); err == nil {
		t.Error("an endless response head was read")
	}
}

// FuzzClientHello holds that the bytes are handed on unchanged and bounded, and
// that only a name that equals the canonical one passes.
func FuzzClientHello(f *testing.F) {
	f.Add(clientHello("example.com"))
	f.Add(clientHello("evil.test"))
	f.Add([]byte{0x16, 3, 1, 0, 1, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		hello, raw, err := ReadHello(bytes.NewReader(in))
		if !bytes.HasPrefix(in, raw) || len(raw) > MaxHello {
			t.Fatalf("%d bytes handed on of %d", len(raw), len(in))
		}
		if err == nil && hello.Check("example.com") == nil && !strings.EqualFold(hello.ServerName, "example.com") {
			t.Fatalf("passed %q", hello.ServerName)
		}
	})
}

// FuzzHTTPHead holds that what passes is read the same way by whoever reads it
// after being written anew: one request, the same host, the same body length.
func FuzzHTTPHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"))
	f.Add([]byte("GET http://u@example.com/ HTTP/1.1\r\nHost : example.com\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := ReadRequest(bufio.NewReaderSize(bytes.NewReader(in), MaxHead), "example.com", 80)
		if err != nil {
			return
		}
		var out, body, anew, bodyAnew bytes.Buffer
		req.Body = io.NopCloser(io.TeeReader(req.Body, &body))
		if err := req.WriteTo(&out, "example.com"); err != nil {
			return // the body was cut short
		}
		wire := out.String()
		rest := bufio.NewReaderSize(&out, MaxHead)
		again, err := ReadRequest(rest, "example.com", 80)
		if err != nil {
			t.Fatalf("written anew it is refused: %v", err)
		}
		again.Body = io.NopCloser(io.TeeReader(again.Body, &bodyAnew))
		if err := again.WriteTo(&anew, "example.com"); err != nil {
			t.Fatal(err)
		}
		if body.String() != bodyAnew.String() || len(req.TransferEncoding) == 0 && anew.String() != wire {
			t.Fatalf("%q was read as %q", wire, anew.String())
		}
		if again.Target != req.Target || again.Method != req.Method {
			t.Fatalf("%s %s became %s %s", req.Method, req.Target, again.Method, again.Target)
		}
		if _, err := rest.ReadByte(); err != io.EOF {
			t.Fatal("something follows the request")
		}
	})
}
