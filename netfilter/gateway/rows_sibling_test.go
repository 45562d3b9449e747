package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// TestInterceptedSiblings are other attempts of the kinds that the attack list has.
func TestInterceptedSiblings(t *testing.T) {
	for _, r := range []mitmRow{
		{"H20_WebSocket_by_another_method", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			for _, method := range []string{"DELETE", "POST", "PUT"} {
				head := " /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"
				got := m.over(t, "example.com", method+head)
				if !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("%s under a rule for WebSockets: %q", method, got)
				}
			}
			m.quiet(t)
		}},
		{"H10_method_and_path_by_header", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			for _, header := range []string{
				"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "x_method_override: delete", "X-Original-URL: /admin", "X-Rewrite-URL: /admin?x",
				"X-HTTP-Method-Override: GET\r\nX-HTTP-Method: DELETE", "X-Original-URL: http://example.com/admin",
			} {
				got := m.over(t, "example.com", request("POST", "example.com", "/ok/a", header, "Content-Length: 0"))
				if !strings.HasPrefix(got, "HTTP/1.1 403") && !strings.HasPrefix(got, "HTTP/1.1 400") {
					t.Errorf("%s: %q", header, got)
				}
			}
			m.quiet(t)
			got := m.over(t, "example.com", request("POST", "example.com", "/ok/a", "X-HTTP-Method-Override: GET", "X-Original-URL: /ok/b", "Content-Length: 0"))
			if !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("what is allowed either way: %q", got)
			}
		}},
		{"H6_framing_by_another_spelling", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				fmt.Fprint(rw, r.Header)
			}))
			got := m.over(t, "example.com", request("POST", "example.com", "/ok/a",
				"Transfer_Encoding: chunked", "content_length: 0", "Host_: x", "Content-Length: 3", "X_y: kept")+"abc")
			if !strings.Contains(got, "X_y:[kept]") || strings.Contains(got, "Transfer_") || strings.Contains(strings.ToLower(got), "content_") {
				t.Errorf("%q", got)
			}
		}},
		{"H22_TRACE", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _ = r.Write(rw) }))
			for _, method := range []string{"TRACE", "TRACK", "Trace"} {
				got := m.over(t, "api.anthropic.com", request(method, "api.anthropic.com", "/", "X-Api-Key: "+placeholder))
				if !strings.HasPrefix(got, "HTTP/1.1 405") || strings.Contains(got, secretValue) {
					t.Errorf("%s: %q", method, got)
				}
			}
			m.quiet(t)
		}},
		{"H22_reflected_after_the_secret_is_taken_away", reflectedLater},
		{"H22_reflected_in_what_is_no_response", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				c, _, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, "HTTP/1.1 "+r.Header.Get("X-Api-Key")+" unknown\r\n\r\n")
			}))
			got := m.over(t, "api.anthropic.com", request("GET", "api.anthropic.com", "/", "X-Api-Key: "+placeholder))
			if !strings.HasPrefix(got, "HTTP/1.1 502") || strings.Contains(got, "hunter2") {
				t.Errorf("%q", got)
			}
			m.deniedFor(t, reasonUpstream)
			if text := fmt.Sprint(m.Denials(time.Time{})); strings.Contains(text, "hunter2") || !strings.Contains(text, "malformed") {
				t.Errorf("what the host keeps of it: %s", text)
			}
		}},
		{"H24_foreign_key_by_other_ways", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(shown))
			serveHTTP(t, m.world, http.HandlerFunc(shown))
			key := "key-of-the-attacker-0123456789"
			for _, r := range []string{
				request("POST", "api.anthropic.com", "/v1/files?key="+key, "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files?a=%zz&%6bey="+key, "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files?x;access_token="+key, "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files", "X_Api_Key: "+key, "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files", "PRIVATE-TOKEN: "+key, "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files", "Authorization: Basic "+base64.RawURLEncoding.EncodeToString([]byte("u:"+key)), "Content-Length: 0"),
				request("POST", "api.anthropic.com", "/v1/files", "X-Api-Key: "+placeholder, "x-api-key: "+key, "Content-Length: 0"),
				"GET /v1/realtime HTTP/1.1\r\nHost: api.anthropic.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
					"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key." + key + "\r\n\r\n",
			} {
				if got := m.over(t, "api.anthropic.com", r); !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("%.90q: %q", r, got)
				}
				if got, err := m.guest.text("api.anthropic.com", 80, r); err != nil || !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Errorf("in plain HTTP, %.90q: %q, %v", r, got, err)
				}
			}
			m.quiet(t)
			got := m.over(t, "api.anthropic.com", request("GET", "api.anthropic.com", "/?key=short&page_token=0123456789abcdef0123", "X-Api-Key: "+placeholder))
			if !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("what is no credential: %q", got)
			}
		}},
		{"H21_placeholder_behind_a_broken_escape", func(t *testing.T, m *mitm) {
			m.serveTLS(t, "example.com", http.HandlerFunc(shown))
			for _, target := range []string{
				"/ok/a?x=%zz&k=%73" + placeholder[1:], "/ok/a?%" + "&k=" + strings.ReplaceAll(placeholder, "-", "%2d")} {
				if got := m.over(t, "example.com", request("GET", "example.com", target)); !strings.HasPrefix(got, "HTTP/1.1 40") {
					t.Errorf("%s: %q", target, got)
				}
			}
			m.quiet(t)
		}},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, newMITM(t)) })
	}
}

// reflectedLater: the server echoes what it was sent, whatever the policy and the values are by then.
func reflectedLater(t *testing.T, m *mitm) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	m.serveTLS(t, "api.anthropic.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-answer
		rw.Header().Set("X-Echo", r.Header.Get("X-Api-Key"))
	}))
	for name, change := range map[string]func(){
		"another value": func() {
			m.SetSecrets(intercept.NewVault([]intercept.Binding{{Secret: apiSpec().Secrets[0], Value: "another"}}))
		},
		"no secret": func() {
			spec := apiSpec()
			spec.Secrets = nil
			m.SetPolicy(compiled(t, spec))
		},
	} {
		m.SetPolicy(compiled(t, apiSpec()))
		m.SetSecrets(intercept.NewVault([]intercept.Binding{{Secret: apiSpec().Secrets[0], Value: secretValue}}))
		c, err := m.tls(t, "api.anthropic.com")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, request("GET", "api.anthropic.com", "/", "X-Api-Key: "+placeholder))
		<-arrived
		change()
		answer <- struct{}{}
		if b, _ := io.ReadAll(c); !strings.Contains(string(b), "X-Echo: "+placeholder) {
			t.Errorf("%s: %q", name, b)
		}
	}
}

// TestRevokedInEveryState: within a second, whatever the connection waits for, on both sides.
func TestRevokedInEveryState(t *testing.T) {
	for state, say := range map[string]string{
		"peeking": "", "half a hello": "\x16\x03\x01\x02", "half a head": "GET / HT",
		"idle": "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "in a body": "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 9\r\n\r\nx",
	} {
		t.Run(state, func(t *testing.T) {
			w := newWorldWith(t, policy(t, "example.com:8080"), func(c *Config) { c.patience = patience{hello: time.Minute, resolve: time.Second} })
			ended := make(chan struct{}, 1)
			w.net.serve(t, 8080, func(c net.Conn) {
				in := bufio.NewReader(c)
				if r, err := http.ReadRequest(in); err == nil && r.Method == http.MethodGet {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
				_, _ = io.Copy(io.Discard, in)
				ended <- struct{}{}
			})
			c := w.guest.mustDial(w.guest.resolve("example.com"), 8080)
			if _, err := io.WriteString(c, say); err != nil {
				t.Fatal(err)
			}
			if state == "idle" {
				if _, err := io.ReadFull(c, make([]byte, 38)); err != nil {
					t.Fatal(err)
				}
			}
			reached := state == "idle" || state == "in a body"
			eventually(t, "the connection", func() bool { return len(w.Live()) == 1 && (!reached || w.Live()[0].Addr != "") })
			start := time.Now()
			w.SetPolicy(policy(t, "other.test"))
			if _, err := io.ReadAll(c); err == nil || time.Since(start) > soon {
				t.Errorf("the guest's side: %v after %v", err, time.Since(start))
			}
			if !reached {
				w.quiet(t)
				return
			}
			select {
			case <-ended:
			case <-time.After(time.Until(start.Add(soon))):
				t.Error("the server's side lives")
			}
		})
	}
}

// TestRevokedWhileHalfOpen: the server was reached, and the guest does not complete its own handshake.
func TestRevokedWhileHalfOpen(t *testing.T) {
	w := newWorld(t, 0)
	reached, ended := make(chan struct{}), make(chan struct{})
	w.net.serve(t, 22, func(c net.Conn) {
		close(reached)
		_, _ = io.Copy(io.Discard, c)
		close(ended)
	})
	addr := w.guest.resolve("github.com")
	frame := ipFrame(protoTCP, addr, synPacket(2000, addr, 22))
	w.guest.mu.Lock() // nothing more from the guest
	defer w.guest.mu.Unlock()
	if _, err := w.guest.wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
	<-reached
	start := time.Now()
	w.SetPolicy(policy(t, "other.test"))
	select {
	case <-ended:
		if took := time.Since(start); took > soon {
			t.Errorf("the server's side lived for %v", took)
		}
	case <-time.After(patient):
		t.Error("the server's side lives")
	}
}

// TestYesIsForOnePort: what the user said of one port of a name says nothing of another.
func TestYesIsForOnePort(t *testing.T) {
	w := askWorld(t, time.Minute)
	w.net.serve(t, 23, echo)
	q, result := w.held(t, "new.test")
	addr := w.guest.resolve("new.test")
	_ = w.Answer(q.ID, true)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	other := make(chan error, 1)
	go func() {
		_, err := w.guest.dial(addr, 23)
		other <- err
	}()
	eventually(t, "a question about the other port", func() bool {
		list := w.Pending()
		return len(list) == 1 && list[0].Port == 23
	})
	_ = w.Answer(w.Pending()[0].ID, false)
	if err := <-other; err == nil {
		t.Error("connected")
	}
}

// TestBudgetOverParallelConnections: together they send no more than one may.
func TestBudgetOverParallelConnections(t *testing.T) {
	const limit = 64 << 10
	w := newWorldWith(t, compiled(t, netfilter.Spec{Rules: []netfilter.Rule{
		{Action: netfilter.Allow, Pattern: "github.com:22/tcp", MaxUpload: limit, Origin: netfilter.Origin{Source: "user"}},
	}}), func(*Config) {})
	var arrived atomic.Int64
	w.net.serve(t, 22, func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		arrived.Add(n)
	})
	addr := w.guest.resolve("github.com")
	var all sync.WaitGroup
	for range 8 {
		c := w.guest.mustDial(addr, 22)
		all.Go(func() {
			for b := make([]byte, 1000); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	eventually(t, "no connection", func() bool { return len(w.Live()) == 0 })
	time.Sleep(100 * time.Millisecond) // for the servers to see the end
	if n := arrived.Load(); n > limit || n == 0 {
		t.Errorf("%d bytes of %d arrived", n, limit)
	}
}

// TestBrokenBodies are siblings of rows H6 and H7: what does not end as it said ends the server's side at once.
func TestBrokenBodies(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: example.com\r\n"
	for _, c := range []struct{ name, say string }{
		{"hexadecimal with a prefix", head + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"},
		{"bare line feeds", head + "Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n"},
		{"too long a length", head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
		{"a line end in an extension", head + "Transfer-Encoding: chunked\r\n\r\n5;a=\"\r\nb\"\r\nhello\r\n0\r\n\r\n"},
		{"a guest that leaves", head + "Content-Length: 9\r\n\r\nhello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 0)
			ended := make(chan struct{})
			w.net.serve(t, 80, func(s net.Conn) {
				_, _ = io.Copy(io.Discard, s)
				close(ended)
			})
			conn := w.guest.mustDial(w.guest.resolve("example.com"), 80)
			if _, err := io.WriteString(conn, c.say); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(soon):
				t.Error("the server waits on")
			}
			if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
				t.Errorf("%q", answer)
			}
		})
	}
}

// TestBudgetOfAReload: a connection that is open when its rule gets a budget is held to it.
func TestBudgetOfAReload(t *testing.T) {
	rule := netfilter.Rule{Action: netfilter.Allow, Pattern: "github.com:22/tcp", Origin: netfilter.Origin{Source: "user"}}
	w := newWorldWith(t, compiled(t, netfilter.Spec{Rules: []netfilter.Rule{rule}}), func(*Config) {})
	w.net.serve(t, 22, echo)
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	echoes(t, c)
	rule.MaxUpload = 6
	w.SetPolicy(compiled(t, netfilter.Spec{Rules: []netfilter.Rule{rule}}))
	echoes(t, c)
	_, _ = c.Write([]byte("ping"))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("8 bytes of 6 went up")
	}
	w.deniedFor(t, reasonBudget)
	for range 3 { // what is refused is not counted
		c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
		_, _ = c.Write([]byte("ping"))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("more went up")
		}
	}
	rule.MaxUpload = 8
	w.SetPolicy(compiled(t, netfilter.Spec{Rules: []netfilter.Rule{rule}}))
	echoes(t, w.guest.mustDial(w.guest.resolve("github.com"), 22))
}

// TestPanicOverADNSAnswer is row X9 where others wait in the same goroutine.
func TestPanicOverADNSAnswer(t *testing.T) {
	w := newWorld(t, 0)
	query, err := new(dns.Msg).SetQuestion("example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}), make(chan struct{})
	w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) {
		close(asked)
		<-release
		return []netip.Addr{public}, nil
	})
	w.serveDatagram(query, func([]byte) { panic("over an answer") })
	<-asked
	answered := make(chan []byte, 1)
	w.serveDatagram(query, func(b []byte) { answered <- b })
	close(release)
	select {
	case <-answered:
	case <-time.After(patient):
		t.Error("who waited for the same name has no answer")
	}
}
