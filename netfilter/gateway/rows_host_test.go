package gateway

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
)

// hostWorld has rules for the host, a private network and a range of public addresses.
func hostWorld(t *testing.T) *world {
	t.Helper()
	origin := netfilter.Origin{Source: "user"}
	w := newWorldWith(t, compiled(t, netfilter.Spec{
		Hosts: []netfilter.HostRule{
			{Pattern: "db.internal:5432/tcp", To: "127.0.0.1:15432", Origin: origin},
			{Pattern: "**.corp.test:22/tcp", To: "10.0.0.0/8", Origin: origin},
		},
		Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "140.82.112.0/20:22/tcp", Origin: origin}},
	}), func(c *Config) {
		c.HostNet = func() netfilter.HostNet {
			return netfilter.HostNet{Addrs: []netip.Addr{netip.MustParseAddr("140.82.112.9")}}
		}
	})
	w.net.serve(t, 15432, echo)
	w.net.serve(t, 22, echo)
	return w
}

func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Errorf("no echo: %v", err)
	}
}

func TestHostRules(t *testing.T) {
	for _, r := range []row{
		{"G4_a_name_of_the_host_by_rule", func(t *testing.T, w *world) {
			echoes(t, w.guest.mustDial(w.guest.resolve("db.internal"), 5432))
			if asked, dialled := w.net.questions(), w.net.dials(); len(asked) > 0 || len(dialled) != 1 || dialled[0] != "127.0.0.1:15432" {
				t.Errorf("asked %v, dialled %v", asked, dialled)
			}
			refusedDNS(t, w, "other.internal", dns.TypeA, dns.RcodeNameError)
		}},
		{"HOST_private_range_of_a_name", func(t *testing.T, w *world) {
			w.net.answer("wiki.corp.test", netip.MustParseAddr("10.1.2.3"))
			echoes(t, w.guest.mustDial(w.guest.resolve("wiki.corp.test"), 22))
			w.net.answer("wiki.corp.test", netip.MustParseAddr("192.168.1.1"))
			if _, err := w.guest.dial(w.guest.resolve("wiki.corp.test"), 22); err == nil {
				t.Error("another private range was reached")
			}
			w.deniedFor(t, netfilter.ReasonAddressClass)
		}},
		{"S18_own_address_within_a_private_range", func(t *testing.T, w *world) {
			origin, own := netfilter.Origin{Source: "user"}, netip.MustParseAddr("10.0.0.5")
			w.cfg.HostNet = func() netfilter.HostNet {
				return netfilter.HostNet{Addrs: []netip.Addr{own}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
			}
			w.net.answer("me.corp.test", own)
			if m := w.guest.ask("me.corp.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("%v", m)
			}
			w.SetPolicy(compiled(t, netfilter.Spec{Hosts: []netfilter.HostRule{{Pattern: "10.0.0.0/16:22/tcp", Origin: origin}}}))
			if _, err := w.guest.dial(own, 22); err == nil {
				t.Error("the host itself was reached through a rule for its network")
			}
			w.deniedFor(t, netfilter.ReasonAddressClass)
			w.quiet(t)
			echoes(t, w.guest.mustDial(netip.MustParseAddr("10.0.0.6"), 22))
			w.SetPolicy(compiled(t, netfilter.Spec{Hosts: []netfilter.HostRule{{Pattern: "10.0.0.5:22/tcp", Origin: origin}}}))
			echoes(t, w.guest.mustDial(own, 22))
		}},
		{"T1_literal_address_by_range", func(t *testing.T, w *world) {
			echoes(t, w.guest.mustDial(netip.MustParseAddr("140.82.112.3"), 22))
			for addr, port := range map[string]uint16{"140.82.112.3": 443, "140.82.128.1": 22, "140.82.112.9": 22} {
				if _, err := w.guest.dial(netip.MustParseAddr(addr), port); err == nil {
					t.Errorf("%s:%d was reached", addr, port)
				}
			}
			if dialled := w.net.dials(); len(dialled) != 1 || dialled[0] != "140.82.112.3:22" {
				t.Errorf("dialled %v", dialled)
			}
		}},
		{"C5_host_rule_that_leads_elsewhere_ends_connections", func(t *testing.T, w *world) {
			c := w.guest.mustDial(w.guest.resolve("db.internal"), 5432)
			echoes(t, c)
			start := time.Now()
			w.SetPolicy(compiled(t, netfilter.Spec{Hosts: []netfilter.HostRule{
				{Pattern: "db.internal:5432/tcp", To: "127.0.0.1:1", Origin: netfilter.Origin{Source: "user"}},
			}}))
			if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(start) > time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, hostWorld(t)) })
	}
}
