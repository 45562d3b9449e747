package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	proxy "github.com/sbx-vm/sbx/netfilter/upstream"
)

// connectProxy is an HTTP proxy on loopback behind which everything echoes. It keeps what it was asked for.
type connectProxy struct {
	mu    sync.Mutex
	hosts []string
	heads []http.Header
}

func (p *connectProxy) serve(c net.Conn) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.hosts, p.heads = append(p.hosts, r.Host), append(p.heads, r.Header)
	p.mu.Unlock()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	_, _ = io.Copy(c, in)
}

func (p *connectProxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.hosts...)
}

// newProxied is a world whose only way out is a proxy; port 22 of **.corp.test and of 93.184.0.0/16 is allowed.
func newProxied(t *testing.T, direct ...string) (*world, *connectProxy) {
	t.Helper()
	p := &connectProxy{}
	servers := fakeNet{servers: map[uint16]string{}}
	servers.serve(t, 0, p.serve)
	way, err := proxy.FromURL("http://me:hunter2@"+servers.servers[0], direct...)
	if err != nil {
		t.Fatal(err)
	}
	origin := netfilter.Origin{Source: "user"}
	spec := netfilter.Spec{
		Rules: []netfilter.Rule{
			{Action: netfilter.Allow, Pattern: "**.corp.test:22/tcp", Origin: origin},
			{Action: netfilter.Allow, Pattern: "**.corp.test:80", Origin: origin},
			{Action: netfilter.Allow, Pattern: "93.184.0.0/16:22/tcp", Origin: origin},
		},
		Hosts: []netfilter.HostRule{{Pattern: "db.test:5432/tcp", To: "127.0.0.1:5432", Origin: origin}},
	}
	w := newWorldWith(t, compiled(t, spec), func(c *Config) { c.Proxy = way })
	for _, port := range []uint16{22, 5432} {
		w.net.serve(t, port, echo)
	}
	return w, p
}

// unresolved asserts that the guest gets no address for a name, whoever was asked.
func (w *world) unresolved(t *testing.T, name string) {
	t.Helper()
	if m := w.guest.ask(name, dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("A %s: %v", name, m)
	}
}

func TestProxyIsTheWayOut(t *testing.T) {
	w, p := newProxied(t)
	w.net.answer("known.corp.test", public)
	for _, name := range []string{"known.corp.test", "only-outside.corp.test"} {
		echoes(t, w.guest.mustDial(w.guest.resolve(name), 22))
	}
	echoes(t, w.guest.mustDial(public, 22))
	w.quiet(t)
	want := []string{"known.corp.test:22", "only-outside.corp.test:22", public.String() + ":22"}
	for i, got := range p.asked() {
		if got != want[i] || p.heads[i].Get("Proxy-Authorization") != "Basic bWU6aHVudGVyMg==" {
			t.Errorf("asked for %q with %v, want %q", got, p.heads[i], want[i])
		}
	}
	if live := w.Live(); len(live) != 3 || live[0].Addr != "" || live[2].Addr != "" {
		t.Errorf("addresses that nobody here dialled: %+v", live)
	}
}

// TestProxyIsNoWayAroundTheFloor: what the host does resolve is checked as ever.
func TestProxyIsNoWayAroundTheFloor(t *testing.T) {
	w, p := newProxied(t)
	w.net.answer("inside.corp.test", netip.MustParseAddr("10.0.0.1"))
	w.unresolved(t, "inside.corp.test")
	w.net.answer("rebinds.corp.test", public)
	addr := w.guest.resolve("rebinds.corp.test")
	w.net.answer("rebinds.corp.test", netip.MustParseAddr("169.254.169.254"))
	if _, err := w.guest.dial(addr, 22); err == nil {
		t.Error("connected")
	}
	w.deniedFor(t, netfilter.ReasonAddressClass)
	w.unresolved(t, "evil.example")
	w.quiet(t)
	if asked := p.asked(); len(asked) > 0 {
		t.Errorf("the proxy was asked for %v", asked)
	}
}

// TestNoProxyIsDirectAndChecked: NO_PROXY and host rules lead past the proxy, and widen nothing.
func TestNoProxyIsDirectAndChecked(t *testing.T) {
	w, p := newProxied(t, "direct.corp.test", "inside.corp.test")
	w.net.answer("direct.corp.test", public)
	w.net.answer("inside.corp.test", netip.MustParseAddr("10.0.0.1"))
	echoes(t, w.guest.mustDial(w.guest.resolve("direct.corp.test"), 22))
	echoes(t, w.guest.mustDial(w.guest.resolve("db.test"), 5432))
	w.unresolved(t, "inside.corp.test")
	w.unresolved(t, "unknown.direct.corp.test")
	if asked := p.asked(); len(asked) > 0 {
		t.Errorf("the proxy was asked for %v", asked)
	}
	if got := w.net.dials(); len(got) != 2 || got[0] != public.String()+":22" || got[1] != "127.0.0.1:5432" {
		t.Errorf("dialled %v", got)
	}
}

// TestGuestSaysNothingToTheProxy: what it sends to port 80 goes through, credentials for a proxy do not.
func TestGuestSaysNothingToTheProxy(t *testing.T) {
	w, p := newProxied(t)
	c := w.guest.mustDial(w.guest.resolve("web.corp.test"), 80)
	said := "GET / HTTP/1.1\r\nHost: web.corp.test\r\nProxy-Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(c, said); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(c) // the request comes back, which is no answer
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.heads) != 1 || p.hosts[0] != "web.corp.test:80" || p.heads[0].Get("Proxy-Authorization") != "Basic bWU6aHVudGVyMg==" {
		t.Errorf("%v, %v", p.hosts, p.heads)
	}
}

// TestProxyThatFails: nothing is reached another way, and no credentials are told.
func TestProxyThatFails(t *testing.T) {
	way, err := proxy.FromURL("http://me:hunter2@127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, policy(t, "github.com:22/tcp"), func(c *Config) { c.Proxy = way })
	w.net.serve(t, 22, echo)
	if _, err := w.guest.dial(w.guest.resolve("github.com"), 22); err == nil {
		t.Error("connected")
	}
	w.deniedFor(t, reasonUpstream)
	w.quiet(t)
	for _, e := range w.Denials(time.Time{}) {
		if e.Kind == audit.Connect && e.Addr != "" {
			t.Errorf("%+v", e)
		}
	}
}
