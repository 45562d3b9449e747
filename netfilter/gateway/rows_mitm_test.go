package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

const (
	placeholder = "sk-sbx-placeholder-00112233445566778899aabbccddeeff"
	secretValue = "hunter2+/=secret"
)

// mitm is a world where requests over TLS are read.
type mitm struct {
	*world
	roots *x509.CertPool // what the guest trusts
	log   string
}

// apiSpec: GET anywhere on example.com, all of the API host, which has a secret; the wildcard passes through.
func apiSpec() netfilter.Spec {
	origin := netfilter.Origin{Source: "user"}
	return netfilter.Spec{
		Rules: []netfilter.Rule{
			{Action: netfilter.Allow, Pattern: "example.com", Methods: []string{"GET", "POST"}, Paths: []string{"/ok/**"}, Origin: origin},
			{Action: netfilter.Allow, Pattern: "example.com:443", Methods: []string{"WEBSOCKET"}, Paths: []string{"/ws"}, Origin: origin},
			{Action: netfilter.Allow, Pattern: "api.anthropic.com", Origin: origin},
			{Action: netfilter.Allow, Pattern: "github.com", Methods: []string{"GET"}, Origin: origin},
			{Action: netfilter.Allow, Pattern: "**.allowed.test", Origin: origin},
		},
		Secrets: []netfilter.Secret{{Name: "KEY", Hosts: []string{"api.anthropic.com"}, Header: "x-api-key", Placeholder: placeholder, Origin: origin}},
	}
}

func compiled(t testing.TB, spec netfilter.Spec) *netfilter.Policy {
	t.Helper()
	p, _, err := netfilter.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newMITM(t testing.TB, edit ...func(*Config)) *mitm {
	t.Helper()
	certPEM, keyPEM, err := intercept.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := intercept.LoadAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	m := &mitm{roots: x509.NewCertPool(), log: t.TempDir() + "/net.log"}
	m.roots.AppendCertsFromPEM(certPEM)
	file, err := audit.Open(m.log, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	spec := apiSpec()
	m.world = newWorldWith(t, compiled(t, spec), func(c *Config) {
		c.Authority, c.Audit = authority, file
		c.Secrets = intercept.NewVault([]intercept.Binding{{Secret: spec.Secrets[0], Value: secretValue}})
		c.Roots = x509.NewCertPool()
		for _, f := range edit {
			f(c)
		}
	})
	return m
}

// serveTLS puts a handler behind port 443, with a certificate for names that the gateway trusts.
func (m *mitm) serveTLS(t testing.TB, name string, h http.Handler) {
	t.Helper()
	cert, pool := certificate(t, name)
	*m.cfg.Roots = *pool
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	m.net.listen(443, l.Addr().String())
}

// tls connects the guest to a name over TLS that trusts the sandbox's authority.
func (m *mitm) tls(t testing.TB, name string) (*tls.Conn, error) {
	t.Helper()
	c := tls.Client(m.guest.mustDial(m.guest.resolve(name), 443), &tls.Config{ServerName: name, RootCAs: m.roots, NextProtos: []string{"h2", "http/1.1"}})
	return c, c.HandshakeContext(context.Background())
}

// over sends words to a name over TLS and gives all that comes back.
func (m *mitm) over(t testing.TB, name, words string) string {
	t.Helper()
	c, err := m.tls(t, name)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("read: %v", err)
	}
	return string(b)
}

func request(method, host, path string, headers ...string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", method, path, host, strings.Join(append(headers, ""), "\r\n"))
}

// shown writes what a server saw of a request.
func shown(rw http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	fmt.Fprintf(rw, "%s %s host=%s key=%q auth=%q body=%d", r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"), n)
}

type mitmRow struct {
	name string
	run  func(*testing.T, *mitm)
}

func TestIntercepted(t *testing.T) {
	for _, r := range []mitmRow{
		{"MITM_request_goes_through", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			if got := m.over(t, "example.com", request("GET", "example.com", "/ok/a?b=c")); !strings.Contains(got, "GET /ok/a?b=c host=example.com") {
				t.Errorf("%q", got)
			}
		}},
		{"MITM_method_and_path_are_decided", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			for _, r := range []string{request("GET", "example.com", "/other"),
				request("DELETE", "example.com", "/ok/a"), request("GET", "example.com", "/ok/../other")} {
				if got := m.over(t, "example.com", r); !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("%.40q: %q", r, got)
				}
			}
			m.quiet(t)
		}},
		{"T5_fronting", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			if got := m.over(t, "example.com", request("GET", "api.anthropic.com", "/ok/a")); !strings.HasPrefix(got, "HTTP/1.1 403") {
				t.Errorf("%q", got)
			}
			m.quiet(t)
		}},
		{"T14_hello_of_another_name", func(t *testing.T, m *mitm) {
			// A second hello after a HelloRetryRequest that names another server: the names of both must agree
			// (crypto/tls ends the handshake), and the requests inside are held to the first.
			c := tls.Client(m.guest.mustDial(m.guest.resolve("example.com"), 443), &tls.Config{ServerName: "api.anthropic.com", RootCAs: m.roots})
			if err := c.HandshakeContext(context.Background()); err == nil {
				t.Error("the handshake with another name went through")
			}
			m.deniedFor(t, reasonTLSName)
			m.quiet(t)
		}},
		{"T15_no_resumption", noResumption},
		{"T18_server_is_verified", serverIsVerified},
		{"T19_many_names", manyNames},
		{"T20_client_that_pins", func(t *testing.T, m *mitm) {
			c := tls.Client(m.guest.mustDial(m.guest.resolve("example.com"), 443), &tls.Config{ServerName: "example.com", RootCAs: x509.NewCertPool()})
			if err := c.HandshakeContext(context.Background()); err == nil {
				t.Error("a client with roots of its own took the certificate")
			}
			m.deniedFor(t, reasonClientTLS)
			m.quiet(t)
		}},
		{"T21_key_updates_and_empty_records", keyUpdates},
		{"H9_pipelined_in_TLS", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			got := m.over(t, "example.com", "GET /ok/1 HTTP/1.1\r\nHost: example.com\r\n\r\n"+request("GET", "example.com", "/other"))
			if !strings.Contains(got, "GET /ok/1") || !strings.Contains(got, "HTTP/1.1 403") || strings.Contains(got, "GET /other host") {
				t.Errorf("%q", got)
			}
		}},
		{"H11_CONNECT_in_TLS", func(t *testing.T, m *mitm) {
			if got := m.over(t, "example.com", "CONNECT evil.test:443 HTTP/1.1\r\nHost: example.com\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 405") {
				t.Errorf("%q", got)
			}
			m.quiet(t)
		}},
		{"H17_no_HTTP_2", func(t *testing.T, m *mitm) {
			c, err := m.tls(t, "example.com")
			if err != nil || c.ConnectionState().NegotiatedProtocol != "http/1.1" {
				t.Fatalf("%q, %v", c.ConnectionState().NegotiatedProtocol, err)
			}
			got := m.over(t, "example.com", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("%q", got)
			}
			m.quiet(t)
		}},
		{"H19_HTTP_2_floods_have_no_HTTP_2", func(t *testing.T, m *mitm) {
			got := m.over(t, "example.com", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+strings.Repeat("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", 1000))
			if !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("%.200q", got)
			}
		}},
		{"H20_WebSocket_by_rule", webSocketByRule},
		{"H21_placeholder_elsewhere", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			for _, header := range []string{"X-Api-Key: " + placeholder, "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+placeholder)),
				"X: " + strings.ToUpper(placeholder), placeholder + ": x"} {
				if got := m.over(t, "example.com", request("GET", "example.com", "/ok/a", header)); !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("%s: %q", header, got)
				}
			}
			m.quiet(t)
			if !hasKind(m.Denials(time.Time{}), audit.Secret) {
				t.Error("nobody is told")
			}
		}},
		{"H21_placeholder_in_plain_HTTP", func(t *testing.T, m *mitm) {
			serveHTTP(t, m.world, http.HandlerFunc(shown))
			got, err := m.guest.text("api.anthropic.com", 80, request("GET", "api.anthropic.com", "/", "X-Api-Key: "+placeholder))
			if err != nil || !strings.HasPrefix(got, "HTTP/1.1 403") {
				t.Errorf("%q, %v", got, err)
			}
			m.quiet(t)
		}},
		{"H22_reflected_secret", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				key := r.Header.Get("X-Api-Key")
				rw.Header().Set("X-Echo", "you sent "+key)
				rw.Header().Set("X-Basic", base64.StdEncoding.EncodeToString([]byte("user:"+key)))
				rw.Header().Set("Location", "/?key="+strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(key))
				fmt.Fprint(rw, key == secretValue)
			}))
			got := m.over(t, "api.anthropic.com", request("GET", "api.anthropic.com", "/", "X-Api-Key: "+placeholder))
			if !strings.HasSuffix(got, "true") || strings.Contains(got, "hunter2") ||
				strings.Contains(got, base64.RawStdEncoding.EncodeToString([]byte("user:"+secretValue))) {
				t.Errorf("%q", got)
			}
		}},
		{"H23_only_declared_places", declaredPlaces},
		{"H24_foreign_key", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(shown))
			for _, header := range []string{"X-Api-Key: sk-of-the-attacker", "Authorization: Bearer attacker", "x-goog-api-key: a"} {
				got := m.over(t, "api.anthropic.com", request("POST", "api.anthropic.com", "/v1/files", header, "Content-Length: 0"))
				if !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("%s: %q", header, got)
				}
			}
			m.quiet(t)
		}},
		{"H25_shared_host_by_path", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			if got := m.over(t, "example.com", request("GET", "example.com", "/bucket-of-the-attacker/x")); !strings.HasPrefix(got, "HTTP/1.1 403") {
				t.Errorf("%q", got)
			}
			m.quiet(t)
		}},
		{"R6_DoH_on_an_allowed_host", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			if got := m.over(t, "example.com", request("GET", "example.com", "/dns-query?dns=AAAA")); !strings.HasPrefix(got, "HTTP/1.1 403") {
				t.Errorf("%q", got)
			}
			m.quiet(t)
		}},
		{"C5_revoke_ends_a_request_in_flight", revokeRequest},
		{"MITM_without_authority_nothing_passes", func(t *testing.T, _ *mitm) {
			m := newMITM(t, func(c *Config) { c.Authority = nil })
			if _, err := m.tls(t, "example.com"); err == nil {
				t.Error("a name that needs interception was served")
			}
			m.quiet(t)
		}},
		{"MITM_other_names_pass_through", func(t *testing.T, m *mitm) {
			cert, pool := certificate(t, "www.allowed.test")
			m.net.serve(t, 443, func(c net.Conn) {
				_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).HandshakeContext(context.Background())
			})
			c := tls.Client(m.guest.mustDial(m.guest.resolve("www.allowed.test"), 443), &tls.Config{ServerName: "www.allowed.test", RootCAs: pool})
			if err := c.HandshakeContext(context.Background()); err != nil {
				t.Errorf("the server's own certificate does not arrive: %v", err)
			}
		}},
		{"MITM_body_is_streamed", streamedBody},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, newMITM(t)) })
	}
}

func hasKind(entries []audit.Entry, kind audit.Kind) bool {
	for _, e := range entries {
		if e.Kind == kind {
			return true
		}
	}
	return false
}

func noResumption(t *testing.T, m *mitm) {
	m.serveTLS(t, "example.com", http.HandlerFunc(shown))
	cache := tls.NewLRUClientSessionCache(8)
	for range 2 {
		c := tls.Client(m.guest.mustDial(m.guest.resolve("example.com"), 443), &tls.Config{ServerName: "example.com", RootCAs: m.roots, ClientSessionCache: cache})
		if err := c.HandshakeContext(context.Background()); err != nil {
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		_, _ = io.WriteString(c, request("GET", "example.com", "/ok/a"))
		_, _ = io.ReadAll(c)
	}
}

func serverIsVerified(t *testing.T, m *mitm) {
	m.serveTLS(t, "other.test", http.HandlerFunc(shown))
	for _, roots := range []string{"wrong name", "unknown authority"} {
		if roots == "unknown authority" {
			*m.cfg.Roots = *x509.NewCertPool()
		}
		if got := m.over(t, "example.com", request("GET", "example.com", "/ok/a")); !strings.HasPrefix(got, "HTTP/1.1 502") || !strings.Contains(got, "certificate") {
			t.Errorf("%s: %q", roots, got)
		}
	}
}

// manyNames: an allowed wildcard has any number of names; what is signed for them is bounded. Only a rule with
// a method makes a wildcard intercepted.
func manyNames(t *testing.T, _ *mitm) {
	m := newMITM(t)
	spec := apiSpec()
	spec.Rules = append(spec.Rules, netfilter.Rule{
		Action: netfilter.Deny, Pattern: "**.allowed.test", Methods: []string{"PUT"}, Origin: netfilter.Origin{Source: "user"},
	})
	m.SetPolicy(compiled(t, spec))
	refused := 0
	for i := range 400 {
		if _, err := m.cfg.Authority.Leaf("n" + strconv.Itoa(i) + ".allowed.test"); err != nil {
			refused++
		}
	}
	if refused < 100 {
		t.Errorf("%d of 400 names refused", refused)
	}
	if !m.Policy().Intercepts("x.allowed.test", 443) {
		t.Error("the wildcard is not intercepted")
	}
}

// keyUpdates: records without content cost the guest its connection, not the gateway its time.
func keyUpdates(t *testing.T, m *mitm) {
	c, err := m.tls(t, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	raw := c.NetConn()
	for range 2000 {
		if _, err := raw.Write([]byte{0x17, 3, 3, 0, 0}); err != nil {
			break
		}
	}
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the connection goes on")
	}
	m.serveTLS(t, "example.com", http.HandlerFunc(shown))
	if got := m.over(t, "example.com", request("GET", "example.com", "/ok/a")); !strings.Contains(got, "GET /ok/a") {
		t.Errorf("another connection: %q", got)
	}
}

func webSocketByRule(t *testing.T, m *mitm) {
	m.serveTLS(t, "example.com", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		c, rest, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
		_, _ = io.Copy(c, rest)
	}))
	upgrade := []string{"Upgrade: websocket", "Connection: Upgrade"}
	ask := func(path string) string {
		return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: example.com\r\n%s\r\n\r\n", path, strings.Join(upgrade, "\r\n"))
	}
	if got := m.over(t, "example.com", ask("/ok/ws")); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Errorf("a rule for GET opens a WebSocket: %q", got)
	}
	c, err := m.tls(t, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, ask("/ws")+"early")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	defer resp.Body.Close()
	got := make([]byte, 7)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hiearly" {
		t.Fatalf("%q, %v", got, err)
	}
	spec := apiSpec()
	spec.Rules = append(spec.Rules[:1:1], spec.Rules[2:]...) // without the rule for WebSockets
	start := time.Now()
	m.SetPolicy(compiled(t, spec))
	if _, err := r.ReadByte(); err == nil || time.Since(start) > time.Second {
		t.Errorf("it lives without its rule: %v after %v", err, time.Since(start))
	}
}

func declaredPlaces(t *testing.T, m *mitm) {
	m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(shown))
	host := "api.anthropic.com"
	for _, r := range []string{
		request("GET", host, "/?key="+placeholder), request("GET", host, "/"+placeholder),
		request("GET", host, "/?key=sk%2Dsbx-placeholder-00112233445566778899aabbccddeeff"),
		request("GET", host, "/", "Cookie: k="+placeholder), request("GET", host, "/", "Authorization: Bearer "+placeholder),
	} {
		if got := m.over(t, host, r); !strings.HasPrefix(got, "HTTP/1.1 403") {
			t.Errorf("%.60q: %q", r, got)
		}
	}
	m.quiet(t)
	body := "the environment says KEY=" + placeholder
	got := m.over(t, host, request("POST", host, "/v1", "x-api-key: "+placeholder, "Content-Length: "+strconv.Itoa(len(body)))+body)
	if !strings.Contains(got, fmt.Sprintf("key=%q", secretValue)) || !strings.Contains(got, fmt.Sprintf("body=%d", len(body))) {
		t.Errorf("%q", got)
	}
	m.SetSecrets(intercept.NewVault([]intercept.Binding{{Secret: apiSpec().Secrets[0]}}))
	if got := m.over(t, host, request("GET", host, "/", "x-api-key: "+placeholder)); !strings.HasPrefix(got, "HTTP/1.1 403") ||
		!strings.Contains(got, "sbx secret set KEY") {
		t.Errorf("without a value: %q", got)
	}
	if err := m.cfg.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range readLog(t, m.log) {
		if strings.Contains(fmt.Sprint(e), "hunter2") {
			t.Errorf("the log holds the value: %+v", e)
		}
	}
}

func revokeRequest(t *testing.T, m *mitm) {
	arrived := make(chan struct{})
	m.serveTLS(t, "example.com", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	c, err := m.tls(t, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, request("GET", "example.com", "/ok/slow"))
	<-arrived
	spec := apiSpec()
	spec.Rules[0].Methods = []string{"POST"}
	start := time.Now()
	m.SetPolicy(compiled(t, spec))
	if b, err := io.ReadAll(c); err == nil && len(b) > 0 || time.Since(start) > time.Second {
		t.Errorf("%q, %v after %v", b, err, time.Since(start))
	}
}

func streamedBody(t *testing.T, m *mitm) {
	const size = 32 << 20
	m.serveTLS(t, "example.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(rw, n)
			return
		}
		_, _ = io.CopyN(rw, zeros{}, size)
	}))
	c, err := m.tls(t, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(c, request("GET", "example.com", "/ok/big"))
	if n, err := io.Copy(io.Discard, c); err != nil || n < size {
		t.Errorf("%d bytes down, %v", n, err)
	}
	up, err := m.tls(t, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	_ = up.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(up, request("POST", "example.com", "/ok/big", "Content-Length: "+strconv.Itoa(size)))
	_, _ = io.CopyN(up, zeros{}, size)
	if b, err := io.ReadAll(up); err != nil || !strings.HasSuffix(string(b), strconv.Itoa(size)) {
		t.Errorf("%q, %v", b, err)
	}
}
