package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// hello is the ClientHello that crypto/tls sends for a server name.
func hello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	var sent bytes.Buffer
	c := tls.Client(&captured{w: &sent}, config)
	_ = c.Handshake()
	return sent.Bytes()
}

// captured keeps what is written and has nothing to read.
type captured struct {
	net.Conn
	w io.Writer
}

func (c *captured) Write(b []byte) (int, error)    { return c.w.Write(b) }
func (*captured) Read([]byte) (int, error)         { return 0, io.EOF }
func (*captured) Close() error                     { return nil }
func (*captured) SetWriteDeadline(time.Time) error { return nil }

// withSNI gives a hello whose server name is replaced by one of the same length.
func withSNI(t testing.TB, name string) []byte {
	t.Helper()
	stand := strings.Repeat("a", len(name)-2) + ".b"
	return bytes.Replace(hello(t, &tls.Config{ServerName: stand, InsecureSkipVerify: true}), []byte(stand), []byte(name), 1)
}

// refusedTLS sends bytes to port 443 of example.com and asserts that nothing is dialled.
func refusedTLS(t *testing.T, w *world, b []byte, reason string) {
	t.Helper()
	w.net.serve(t, 443, echo)
	answer, _ := w.guest.text("example.com", 443, string(b))
	if answer != "" && answer != string(intercept.AccessDenied()) {
		t.Errorf("answer %q", answer)
	}
	w.deniedFor(t, reason)
	w.quiet(t)
}

func nameRows() []row {
	sni := func(name string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { refusedTLS(t, w, withSNI(t, name), reasonTLSName) }
	}
	return []row{
		{"N2_trailing_dot", func(t *testing.T, w *world) {
			w.guest.resolve("example.com.")
			refusedTLS(t, w, withSNI(t, "example.com."), reasonProtocol)
		}},
		{"N3_case", func(t *testing.T, w *world) {
			w.net.serve(t, 443, echo)
			b := withSNI(t, "EXAMPLE.com")
			c := w.guest.mustDial(w.guest.resolve("example.COM"), 443)
			_, _ = c.Write(b)
			if _, err := io.ReadFull(c, make([]byte, len(b))); err != nil {
				t.Error(err)
			}
		}},
		{"N4_suffix_without_dot", func(t *testing.T, w *world) {
			refusedDNS(t, w, "evil-example.com", dns.TypeA, dns.RcodeNameError)
			refusedDNS(t, w, "notallowed.test", dns.TypeA, dns.RcodeNameError)
		}},
		{"N6_N7_wildcard_apex_and_depth", func(t *testing.T, w *world) {
			w.SetPolicy(policy(t, "*.one.test", "**.all.test"))
			refusedDNS(t, w, "one.test", dns.TypeA, dns.RcodeNameError)
			refusedDNS(t, w, "a.b.one.test", dns.TypeA, dns.RcodeNameError)
			w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{public}, nil })
			for _, name := range []string{"a.one.test", "all.test", "a.b.all.test"} {
				w.guest.resolve(name)
			}
		}},
		{"N9_homoglyph", func(t *testing.T, w *world) {
			refusedDNS(t, w, "xn--exmple-4nf.com", dns.TypeA, dns.RcodeNameError)
			refusedDNS(t, w, "ex\u0430mple.com", dns.TypeA, dns.RcodeNameError)
		}},
		{"N11_full_width", func(t *testing.T, w *world) {
			refusedDNS(t, w, "\uff45xample.com", dns.TypeA, dns.RcodeNameError)
			refusedDNS(t, w, "example\u3002com", dns.TypeA, dns.RcodeNameError)
		}},
		{"N16_address_in_a_name", func(t *testing.T, w *world) {
			w.net.answer("10.0.0.1.allowed.test", netip.MustParseAddr("10.0.0.1"))
			if m := w.guest.ask("10.0.0.1.allowed.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("%v", m)
			}
			w.deniedFor(t, netfilter.ReasonAddressClass)
		}},
		{"N12_space_in_SNI", sni("example com")},
		{"N12_NUL_in_SNI", sni("example.com\x00.evil.test")},
		{"N12_0xff_in_SNI", sni("example\xffcom")},
		{"N13_brackets_in_Host", func(t *testing.T, w *world) { refusedHTTP(t, w, get("[example.com]"), "403") }},
		{"N15_IP_literal_SNI", sni("93.184.215.14")},
		{"N18_log_injection", func(t *testing.T, w *world) {
			refusedHTTP(t, w, get("evil\x1b[31m.test"), "400")
			refusedTLS(t, w, withSNI(t, "a\n\x1b[31m\".test"), reasonTLSName)
			for _, e := range w.Denials(time.Time{}) {
				if strings.ContainsAny(e.Name+e.Reason, "\n\x1b") {
					t.Errorf("raw bytes in %+v", e)
				}
			}
		}},
	}
}

func tlsRows() []row {
	good := func(t *testing.T) []byte { return hello(t, &tls.Config{ServerName: "example.com"}) }
	return []row{
		{"T1_no_SNI", func(t *testing.T, w *world) {
			refusedTLS(t, w, hello(t, &tls.Config{InsecureSkipVerify: true}), reasonTLSName)
		}},
		{"T2_other_SNI", func(t *testing.T, w *world) { refusedTLS(t, w, withSNI(t, "evil.test"), reasonTLSName) }},
		{"T2_other_allowed_SNI", func(t *testing.T, w *world) { refusedTLS(t, w, withSNI(t, "api.anthropic.com"), reasonTLSName) }},
		{"T6_ECH", func(t *testing.T, w *world) { refusedTLS(t, w, withECH(good(t)), reasonTLSName) }},
		{"T7_hello_in_single_bytes", func(t *testing.T, w *world) {
			w.net.serve(t, 443, echo)
			c := w.guest.mustDial(w.guest.resolve("example.com"), 443)
			b := good(t)
			for i := range b {
				if _, err := c.Write(b[i : i+1]); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(b))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, b) {
				t.Errorf("the hello changed on its way: %v", err)
			}
		}},
		{"T9_huge_hello", func(t *testing.T, w *world) {
			record := append([]byte{0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, make([]byte, 0x3ffc)...)
			refusedTLS(t, w, bytes.Repeat(record, 20), reasonProtocol)
		}},
		{"T10_slow_hello", func(t *testing.T, w *world) {
			w.net.serve(t, 443, echo)
			c := w.guest.mustDial(w.guest.resolve("example.com"), 443)
			_, _ = c.Write(good(t)[:20])
			start := time.Now()
			_, _ = io.ReadAll(c)
			if took := time.Since(start); took > soon {
				t.Errorf("held for %v", took)
			}
			w.quiet(t)
		}},
		{"T11_duplicate_SNI_extension", func(t *testing.T, w *world) { refusedTLS(t, w, twiceSNI(good(t)), reasonProtocol) }},
		{"T13_garbage", func(t *testing.T, w *world) { refusedTLS(t, w, []byte("\x00\x01garbage"), reasonProtocol) }},
		{"T13_SSLv2_hello", func(t *testing.T, w *world) {
			refusedTLS(t, w, []byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10}, reasonProtocol)
		}},
		{"T13_application_data_first", func(t *testing.T, w *world) {
			refusedTLS(t, w, []byte{0x17, 3, 3, 0, 4, 1, 2, 3, 4}, reasonProtocol)
		}},
		{"T13_HTTP_on_443", func(t *testing.T, w *world) { refusedTLS(t, w, []byte(get("example.com")), reasonProtocol) }},
		{"T16_STARTTLS", func(t *testing.T, w *world) {
			refusedTLS(t, w, []byte("\x00\x00\x00\x08\x04\xd2\x16\x2f"), reasonProtocol)
		}},
		{"T17_SSH_on_443", func(t *testing.T, w *world) { refusedTLS(t, w, []byte("SSH-2.0-OpenSSH\r\n"), reasonProtocol) }},
		{"TLS_on_80", func(t *testing.T, w *world) {
			w.net.serve(t, 80, echo)
			_, _ = w.guest.text("example.com", 80, string(good(t)))
			w.deniedFor(t, reasonProtocol)
			w.quiet(t)
		}},
		{"TLS_on_a_port_of_a_rule", func(t *testing.T, w *world) {
			w.net.serve(t, 8443, echo)
			b := withSNI(t, "tls.test")
			c := w.guest.mustDial(w.guest.resolve("tls.test"), 8443)
			_, _ = c.Write(b)
			if _, err := io.ReadFull(c, make([]byte, len(b))); err != nil {
				t.Error(err)
			}
		}},
	}
}

// withECH appends an encrypted_client_hello extension to a ClientHello record.
func withECH(b []byte) []byte {
	body := append([]byte{0, 0, 1, 0, 1, 7, 0, 32}, make([]byte, 32)...) // outer, HKDF-SHA256, AES-128-GCM, config 7, a key
	body = append(append(body, 0, 64), make([]byte, 64)...)
	return withExtension(b, append([]byte{0xfe, 0x0d, 0, byte(len(body))}, body...))
}

// twiceSNI appends a second server_name extension.
func twiceSNI(b []byte) []byte {
	return withExtension(b, []byte{0, 0, 0, 8, 0, 6, 0, 0, 3, 'b', '.', 'c'})
}

// withExtension appends an extension and mends the four lengths around it.
func withExtension(b, extension []byte) []byte {
	b = append(append([]byte{}, b...), extension...)
	add := func(at int) {
		n := int(b[at])<<8 | int(b[at+1])
		n += len(extension)
		b[at], b[at+1] = byte(n>>8), byte(n)
	}
	add(3)               // record
	add(7)               // handshake, low two bytes
	at := 5 + 4 + 2 + 32 // session ID
	at += 1 + int(b[at]) // cipher suites
	at += 2 + int(b[at])<<8 + int(b[at+1])
	at += 1 + int(b[at]) // compression methods
	add(at)
	return b
}

func get(host string) string {
	return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// refusedHTTP sends a request to port 80 of example.com and asserts the status and that nothing is dialled.
func refusedHTTP(t *testing.T, w *world, request, status string) {
	t.Helper()
	w.net.serve(t, 80, echo)
	answer, err := w.guest.text("example.com", 80, request)
	if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 "+status+" ") {
		t.Errorf("%.60q: answer %q, %v; want %s", request, answer, err, status)
	}
	w.quiet(t)
}

func httpRows() []row {
	refuse := func(status string, requests ...string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			for _, r := range requests {
				refusedHTTP(t, w, r, status)
			}
		}
	}
	head := func(lines ...string) string {
		return "POST / HTTP/1.1\r\nHost: example.com\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	return []row{
		{"H1_other_Host", refuse("403", get("evil.test"), get("api.anthropic.com"), get("example.com:81"))},
		{"H3_duplicate_Host", refuse("400", head("Host: evil.test"), head("host: example.com"))},
		{"H4_no_Host_or_HTTP_1_0", refuse("400", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\nHost: example.com\r\n\r\n", "GET /\r\n\r\n")},
		{"H6_CL_and_TE", refuse("400", head("Content-Length: 5", "Transfer-Encoding: chunked"))},
		{"H7_framing", refuse("400", head("Content-Length: 5", "Content-Length: 6"), head("Content-Length: +5"),
			head("Transfer-Encoding: chunked, identity"), head("Transfer-Encoding: xchunked"), head("Transfer-Encoding : chunked"))},
		{"H9_pipelined_other_Host", pipelinedOtherHost},
		{"H10_body_is_no_request", smuggledBody},
		{"H11_CONNECT", refuse("405", "CONNECT evil.test:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")},
		{"H14_CONNECT_to_metadata", refuse("405", "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: example.com\r\n\r\n")},
		{"H16_targets", refuse("403", "GET http://good@evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
			"GET http://evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n")},
		{"H16_userinfo_in_Host", refuse("403", get("user@example.com"))},
		{"H16_backslash", refuse("400", "GET \\\\evil.test HTTP/1.1\r\nHost: example.com\r\n\r\n")},
		{"H17_HTTP_2_preface", refuse("400", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")},
		{"H_bare_LF", refuse("400", "GET / HTTP/1.1\nHost: example.com\r\n\r\n", head("X: a\nHost: evil.test"))},
		{"H_space_before_colon", refuse("400", "GET / HTTP/1.1\r\nHost : example.com\r\n\r\n")},
		{"H_folded_line", refuse("400", head("X: a", " Host: evil.test"))},
		{"H20_WebSocket", webSocket},
		{"H20_no_101_unasked", switchesUnasked},
		{"H26_huge_head", refuse("431", head("X: "+strings.Repeat("a", 1<<20)))},
		{"H26_many_headers", refuse("431", head(strings.Repeat("X: a\r\n", 1000)+"Y: b"))},
		{"H27_interim_flood", interimFlood},
		{"H28_Proxy_header", proxyHeader},
		{"S23_redirects_are_not_followed", func(t *testing.T, w *world) {
			serveHTTP(t, w, http.RedirectHandler("http://169.254.169.254/", http.StatusFound))
			answer, err := w.guest.text("example.com", 80, "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
			if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 302") || len(w.net.dials()) != 1 {
				t.Errorf("%q, %v, dialled %v", answer, err, w.net.dials())
			}
		}},
		{"Denied_port_80_names_the_rule", func(t *testing.T, w *world) {
			answer, _ := w.guest.text("github.com", 80, get("github.com"))
			if !strings.HasPrefix(answer, "HTTP/1.1 403") || !strings.Contains(answer, "sbx policy allow github.com:80") {
				t.Errorf("%q", answer)
			}
			w.quiet(t)
		}},
		{"100_continue", continues},
	}
}

func pipelinedOtherHost(t *testing.T, w *world) {
	serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "host="+r.Host) }))
	answer, err := w.guest.text("example.com", 80, get("example.com")+get("evil.test")+get("example.com"))
	if err != nil || strings.Count(answer, "host=example.com") != 1 || !strings.Contains(answer, "HTTP/1.1 403") {
		t.Errorf("%q, %v", answer, err)
	}
	if strings.Contains(answer, "host=evil.test") {
		t.Error("the second request went through")
	}
}

func smuggledBody(t *testing.T, w *world) {
	serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%s %d|", r.URL.Path, len(b))
	}))
	inner := get("evil.test")
	first := fmt.Sprintf("POST /one HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner)
	second := fmt.Sprintf("POST /two HTTP/1.1\r\nHost: example.com\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)
	answer, err := w.guest.text("example.com", 80, first+second)
	if err != nil || !strings.Contains(answer, fmt.Sprintf("/one %d|", len(inner))) || !strings.Contains(answer, fmt.Sprintf("/two %d|", len(inner))) {
		t.Errorf("%q, %v", answer, err)
	}
}

func webSocket(t *testing.T, w *world) {
	w.net.serve(t, 80, func(c net.Conn) {
		r := bufio.NewReader(c)
		if req, err := http.ReadRequest(r); err != nil || req.Header.Get("Upgrade") != "websocket" {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
		_, _ = io.Copy(c, r)
	})
	c := w.guest.mustDial(w.guest.resolve("example.com"), 80)
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err == nil {
		resp.Body.Close()
	}
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v", resp, err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hiearly" {
		t.Fatalf("%q, %v", got, err)
	}
	w.SetPolicy(policy(t, "other.test"))
	start := time.Now()
	if _, err := r.ReadByte(); err == nil || time.Since(start) > time.Second {
		t.Errorf("a revoked WebSocket lives: %v after %v", err, time.Since(start))
	}
}

func switchesUnasked(t *testing.T, w *world) {
	w.net.serve(t, 80, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	answer, err := w.guest.text("example.com", 80, get("example.com"))
	if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 502") {
		t.Errorf("%q, %v", answer, err)
	}
}

func interimFlood(t *testing.T, w *world) {
	w.net.serve(t, 80, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		for {
			if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
				return
			}
		}
	})
	answer, _ := w.guest.text("example.com", 80, get("example.com"))
	if n := strings.Count(answer, "103 Early"); n > 16 {
		t.Errorf("%d interim responses", n)
	}
}

func proxyHeader(t *testing.T, w *world) {
	serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, len(r.Header["Proxy"])) }))
	answer, _ := w.guest.text("example.com", 80, "GET / HTTP/1.1\r\nHost: example.com\r\nProxy: http://evil.test\r\nConnection: close\r\n\r\n")
	if !strings.HasSuffix(answer, "\r\n\r\n0") {
		t.Errorf("%q", answer)
	}
}

func continues(t *testing.T, w *world) {
	serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) }))
	c := w.guest.mustDial(w.guest.resolve("example.com"), 80)
	req, _ := http.NewRequest(http.MethodPost, "http://example.com/", strings.NewReader("body"))
	req.Header.Set("Expect", "100-continue")
	resp, err := guestClient(c).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "body" {
		t.Errorf("%q, %v", b, err)
	}
}
