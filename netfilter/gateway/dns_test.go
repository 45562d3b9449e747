package gateway

import (
	"bytes"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// FuzzDNS holds that a query is answered with its own ID or not at all, that an
// answer to a query that is not resolved carries no data, and that only allowed,
// canonical names are left to resolve.
func FuzzDNS(f *testing.F) {
	for _, name := range []string{"example.com.", "evil.test.", `a\.b.allowed.test.`} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeHTTPS} {
			b, _ := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true).Pack()
			f.Add(b)
		}
	}
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	g := &Gateway{}
	g.policy.Store(policy(f, baseRules()...))
	f.Fuzz(func(t *testing.T, in []byte) {
		q, answer := g.readQuery(in)
		if answer != nil {
			m := new(dns.Msg)
			if err := m.Unpack(answer); err != nil || !bytes.Equal(answer[:2], in[:2]) || len(m.Answer) > 0 || m.Rcode == dns.RcodeSuccess {
				t.Fatalf("answer %x, %v", answer, err)
			}
		}
		if q == nil {
			return
		}
		if name, err := netfilter.Canonical(q.name); err != nil || name != q.name || !g.decideName(q.name).Allow {
			t.Fatalf("left to resolve: %q", q.name)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	ours, theirs := socketpair(t)
	defer ours.Close()
	defer theirs.Close()
	fake := &fakeNet{}
	good := Config{
		Link: ours, MAC: guestMAC, Guest: guestPrefix, Gateway: gatewayAddr, Policy: policy(t),
		HostNet: func() netfilter.HostNet { return netfilter.HostNet{} }, Resolver: fake, Dialer: fake,
	}
	for name, spoil := range map[string]func(*Config){
		"no link":                 func(c *Config) { c.Link = nil },
		"no policy":               func(c *Config) { c.Policy = nil },
		"short MAC":               func(c *Config) { c.MAC = c.MAC[:5] },
		"gateway is the guest":    func(c *Config) { c.Gateway = c.Guest.Addr() },
		"gateway is out of reach": func(c *Config) { c.Gateway = public },
		"MTU too small":           func(c *Config) { c.MTU = 500 },
		"MTU too large":           func(c *Config) { c.MTU = 70000 },
	} {
		bad := good
		spoil(&bad)
		if g, err := Start(t.Context(), bad); err == nil {
			g.Close()
			t.Errorf("%s: started", name)
		}
	}
}

// TestIdleIsSmall: one gateway beside a hundred idle connections is a small part
// of the supervisor's 64 MiB.
func TestIdleIsSmall(t *testing.T) {
	w := newWorld(t, 0)
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	before := heap()
	for range 100 {
		roundTrip(t, w.guest.mustDial(addr, 22))
	}
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("a hundred idle connections (both stacks) hold %d KiB", grown>>10)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestQueueIsBounded: a machine that is stopped reads nothing; what waits for it
// has a bound, and closing does not wait for it.
func TestQueueIsBounded(t *testing.T) {
	ours, theirs := socketpair(t)
	defer theirs.Close()
	l := newLink(ours, testFilter(), slog.New(slog.DiscardHandler))
	sent := make(chan error)
	go func() { sent <- l.send() }()
	for range 100 {
		_, err := l.WritePackets(packets(t, 1000, 1400))
		if _, full := err.(*tcpip.ErrNoBufferSpace); full {
			break
		}
	}
	l.mu.Lock()
	queued := l.queued
	l.mu.Unlock()
	if queued == 0 || queued > sendQueueBytes {
		t.Errorf("%d bytes wait", queued)
	}
	l.Close()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patient):
		t.Error("the sender outlives the link")
	}
}

// TestAuditOfAConnection reads back what a connection leaves in the log.
func TestAuditOfAConnection(t *testing.T) {
	path := t.TempDir() + "/net.log"
	log, err := audit.Open(path, audit.Options{Sandbox: "s"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 0)
	w.cfg.Audit = log
	w.net.serve(t, 22, echo)
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	roundTrip(t, c)
	c.Close()
	eventually(t, "the flow's end", func() bool {
		w.flows.mu.Lock()
		defer w.flows.mu.Unlock()
		return len(w.flows.open) == 0
	})
	w.guest.ask("evil.test", dns.TypeA)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	entries := readLog(t, path)
	for _, want := range []audit.Entry{
		{Kind: audit.DNS, Verdict: audit.VerdictAllow, Name: "github.com"},
		{Kind: audit.Connect, Verdict: audit.VerdictAllow, Name: "github.com", Port: 22, Rule: "github.com:22/tcp", Addr: public.String()},
		{Kind: audit.Close, Verdict: audit.VerdictAllow, Name: "github.com", Port: 22, BytesUp: 1, BytesDown: 1},
		{Kind: audit.DNS, Verdict: audit.VerdictDeny, Name: "evil.test", Reason: netfilter.ReasonNoRule},
	} {
		if !hasEntry(entries, want) {
			t.Errorf("no %+v in %+v", want, entries)
		}
	}
}
