package gateway

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
)

// momentWorld is a world in which every answer of the resolver is one of the last moment.
func momentWorld(t *testing.T, host func() netfilter.HostNet) *world {
	t.Helper()
	return newWorldWith(t, policy(t, baseRules()...), func(c *Config) {
		c.patience.answer = time.Hour
		if host != nil {
			c.HostNet = host
		}
	})
}

func TestMomentsAnswerServesConnections(t *testing.T) {
	w := momentWorld(t, nil)
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	w.net.answer("github.com", netip.MustParseAddr("127.0.0.1")) // a server that rebinds its name between question and connection
	for range 3 {
		w.guest.mustDial(addr, 22)
	}
	if asked := w.net.questions(); len(asked) != 1 {
		t.Errorf("the resolver was asked %d times", len(asked))
	}
	want := netip.AddrPortFrom(public, 22).String()
	if dials := w.net.dials(); len(dials) != 3 || slices.ContainsFunc(dials, func(to string) bool { return to != want }) {
		t.Errorf("dialled %q, want the address that was checked", dials)
	}
}

func TestMomentsAnswerIsCheckedAgain(t *testing.T) {
	var mine atomic.Bool
	w := momentWorld(t, func() netfilter.HostNet {
		if mine.Load() {
			return netfilter.HostNet{Addrs: []netip.Addr{public}}
		}
		return netfilter.HostNet{}
	})
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	mine.Store(true)
	if c, err := w.guest.dial(addr, 22); err == nil {
		c.Close()
		t.Error("the host's own address was reached")
	}
	w.deniedFor(t, netfilter.ReasonAddressClass)
	mine.Store(false)
	w.guest.mustDial(addr, 22)
	if asked := w.net.questions(); len(asked) != 2 {
		t.Errorf("the resolver was asked %d times: a refused answer is not used again", len(asked))
	}
}

func TestMomentsAnswerThatFailsIsForgotten(t *testing.T) {
	w := momentWorld(t, nil)
	addr := w.guest.resolve("github.com")
	if c, err := w.guest.dial(addr, 22); err == nil { // nobody listens
		c.Close()
		t.Fatal("connected to nothing")
	}
	w.net.answer("github.com", netip.MustParseAddr("1.1.1.1"))
	w.net.serve(t, 22, echo)
	w.guest.mustDial(addr, 22)
	if dials := w.net.dials(); dials[len(dials)-1] != "1.1.1.1:22" {
		t.Errorf("dialled %q, want the name's new address last", dials)
	}
}

func TestFamilies(t *testing.T) {
	for want, addrs := range map[string][]string{
		"ip4": {"127.0.0.1", "192.168.1.2", "::1", "fe80::1"},
		"ip":  {"127.0.0.1", "2001:db8::7"},
	} {
		var host netfilter.HostNet
		for _, a := range addrs {
			host.Addrs = append(host.Addrs, netip.MustParseAddr(a))
		}
		if got := families(host); got != want {
			t.Errorf("%v: %q, want %q", addrs, got, want)
		}
	}
}
