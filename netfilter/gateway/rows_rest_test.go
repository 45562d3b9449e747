package gateway

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestRestOfTheRows: what an upstream answer can carry besides addresses never reaches our code, because the
// host's resolver gives addresses alone; what these rows ask for is that nothing else becomes reachable.
func TestRestOfTheRows(t *testing.T) {
	for _, r := range []row{
		{"D10_unrelated_records_pin_nothing", func(t *testing.T, w *world) {
			w.net.serve(t, 443, echo)
			w.net.answer("example.com", public, netip.MustParseAddr("6.6.6.6"))
			w.guest.resolve("example.com")
			if m := w.guest.ask("evil.test", dns.TypeA); m.Rcode != dns.RcodeNameError || len(m.Answer) > 0 {
				t.Errorf("%v", m)
			}
			for _, addr := range []string{"6.6.6.6", public.String()} {
				if _, err := w.guest.dial(netip.MustParseAddr(addr), 443); err == nil {
					t.Errorf("%s can be connected to", addr)
				}
			}
			w.quiet(t)
		}},
		{"D18_an_answer_that_does_not_parse", func(t *testing.T, w *world) {
			w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) {
				return nil, errors.New("cannot unmarshal DNS message")
			})
			if m := w.guest.ask("example.com", dns.TypeA); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
				t.Errorf("%v", m)
			}
			w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) { panic("a resolver that panics") })
			if m := w.guest.ask("www.allowed.test", dns.TypeA); len(m.Answer) > 0 {
				t.Errorf("%v", m)
			}
			w.net.resolveWith(nil)
			w.guest.resolve("api.anthropic.com")
		}},
		{"P2_a_rule_for_SSH_leads_to_its_name_alone", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			echoes(t, w.guest.mustDial(w.guest.resolve("github.com"), 22))
			for _, name := range []string{"example.com", "api.anthropic.com"} {
				if _, err := w.guest.dial(w.guest.resolve(name), 22); err == nil {
					t.Errorf("SSH to %s", name)
				}
			}
		}},
		{"H15_CONNECT_before_a_hello", func(t *testing.T, w *world) {
			w.net.serve(t, 80, echo)
			w.net.serve(t, 443, echo)
			for _, port := range []uint16{80, 443} {
				words := "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n" + string(withSNI(t, "evil.test"))
				if answer, _ := w.guest.text("example.com", port, words); strings.HasPrefix(answer, "HTTP/1.1 2") {
					t.Errorf("port %d: %q", port, answer)
				}
			}
			w.quiet(t)
		}},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, newWorld(t, 0)) })
	}
}
