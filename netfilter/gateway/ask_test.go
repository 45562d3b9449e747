package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

func askWorld(t *testing.T, wait time.Duration, rules ...netfilter.Rule) *world {
	t.Helper()
	w := newWorldWith(t, compiled(t, netfilter.Spec{Ask: wait, Rules: rules}), func(*Config) {})
	w.net.serve(t, 22, echo)
	for _, name := range []string{"new.test", "other.test"} {
		w.net.answer(name, public)
	}
	return w
}

// held begins a connection that waits for an answer; its result comes over the channel.
func (w *world) held(t *testing.T, name string) (Question, <-chan error) {
	t.Helper()
	_, seen, err := w.WaitPending(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	addr := w.guest.resolve(name)
	result := make(chan error, 1)
	go func() {
		c, err := w.guest.dial(addr, 22)
		if err == nil {
			c.Close()
		}
		result <- err
	}()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		list, now, err := w.WaitPending(ctx, seen)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range list {
			if q.Name == name {
				return q, result
			}
		}
		seen = now
	}
}

func TestAsking(t *testing.T) {
	origin := netfilter.Origin{Source: "user"}
	for _, r := range []row{
		{"ASK_yes_lets_the_held_connection_go_on", func(t *testing.T, w *world) {
			q, result := w.held(t, "new.test")
			if len(w.net.questions()) > 0 {
				t.Error("the resolver was asked before the user")
			}
			if err := w.Answer(q.ID, true); err != nil {
				t.Fatal(err)
			}
			if err := <-result; err != nil {
				t.Errorf("after yes: %v", err)
			}
			if err := w.Answer(q.ID, true); !errors.Is(err, ErrNoQuestion) {
				t.Errorf("answered twice: %v", err)
			}
			again, result := w.held(t, "new.test") // yes was for those that waited
			_ = w.Answer(again.ID, false)
			if err := <-result; err == nil {
				t.Error("after no: connected")
			}
		}},
		{"ASK_no_is_remembered", func(t *testing.T, w *world) {
			q, result := w.held(t, "new.test")
			_ = w.Answer(q.ID, false)
			if err := <-result; err == nil {
				t.Error("connected")
			}
			if _, err := w.guest.dial(w.guest.resolve("new.test"), 22); err == nil || len(w.Pending()) > 0 {
				t.Errorf("asked again: %v", err)
			}
			w.quiet(t)
		}},
		{"ASK_policy_decides_meanwhile", func(t *testing.T, w *world) {
			_, result := w.held(t, "new.test")
			w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute, Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "new.test:22/tcp", Origin: origin}}}))
			if err := <-result; err != nil {
				t.Errorf("allowed by a rule meanwhile: %v", err)
			}
			_, result = w.held(t, "other.test")
			w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute, Rules: []netfilter.Rule{{Action: netfilter.Deny, Pattern: "other.test", Origin: origin}}}))
			if err := <-result; err == nil {
				t.Error("denied by a rule meanwhile: connected")
			}
		}},
		{"ASK_not_for_what_is_denied", func(t *testing.T, w *world) {
			w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute, Rules: []netfilter.Rule{{Action: netfilter.Deny, Pattern: "bad.test", Origin: origin}}}))
			refusedDNS(t, w, "bad.test", dns.TypeA, dns.RcodeNameError)
			refusedDNS(t, w, "router.local", dns.TypeA, dns.RcodeNameError)
			if _, err := w.guest.dial(public, 22); err == nil || len(w.Pending()) > 0 {
				t.Errorf("a literal address is asked for: %v", err)
			}
		}},
		{"ASK_a_granted_connection_outlives_a_policy_that_says_nothing_of_it", func(t *testing.T, w *world) {
			addr := w.guest.resolve("new.test")
			go func() {
				_, seen, _ := w.WaitPending(context.Background(), 0)
				for len(w.Pending()) == 0 {
					_, seen, _ = w.WaitPending(context.Background(), seen)
				}
				_ = w.Answer(w.Pending()[0].ID, true)
			}()
			c := w.guest.mustDial(addr, 22)
			echoes(t, c)
			w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute}))
			echoes(t, c)
			w.SetPolicy(compiled(t, netfilter.Spec{}))
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("it outlives the asking")
			}
		}},
		{"ASK_nobody_about_what_a_rule_covers_by_now", func(t *testing.T, w *world) {
			stale := netfilter.Verdict{Ask: true} // of the policy before
			for action, allow := range map[netfilter.Action]bool{netfilter.Allow: true, netfilter.Deny: false} {
				w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute, Rules: []netfilter.Rule{{Action: action, Pattern: "new.test:22/tcp", Origin: origin}}}))
				if v := w.ask(netfilter.Request{Name: "new.test", Port: 22}, stale); v.Allow != allow || v.Ask || len(w.Pending()) > 0 {
					t.Errorf("%s: %+v, asked %v", action, v, w.Pending())
				}
			}
		}},
		{"C11_a_flood_of_prompts", promptFlood},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, askWorld(t, time.Minute)) })
	}
}

func TestNoAnswerIsNo(t *testing.T) {
	w := askWorld(t, 50*time.Millisecond)
	_, result := w.held(t, "new.test")
	if err := <-result; err == nil {
		t.Error("connected")
	}
	w.deniedFor(t, netfilter.ReasonNoAnswer)
	w.quiet(t)
}

// promptFlood: a thousand names make a bounded number of questions, spelled as A-labels, and hold up nothing else.
func promptFlood(t *testing.T, w *world) {
	origin := netfilter.Origin{Source: "user"}
	w.SetPolicy(compiled(t, netfilter.Spec{Ask: time.Minute, Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "other.test:22/tcp", Origin: origin}}}))
	var waiting []<-chan error
	for i := range 1000 {
		m := w.guest.ask(fmt.Sprintf("xn--n%d-abc.test", i), dns.TypeA)
		if len(m.Answer) == 0 {
			continue
		}
		addr, _ := netip.AddrFromSlice(m.Answer[0].(*dns.A).A.To4())
		result := make(chan error, 1)
		waiting = append(waiting, result)
		go func() {
			_, err := w.guest.dial(addr, 22)
			result <- err
		}()
	}
	echoes(t, w.guest.mustDial(w.guest.resolve("other.test"), 22))
	if len(waiting) > lookupBurst+50 {
		t.Errorf("%d names were given addresses", len(waiting))
	}
	eventually(t, "some questions", func() bool { return len(w.Pending()) > 0 })
	if n := len(w.Pending()); n > maxQuestions {
		t.Errorf("%d questions", n)
	}
	for _, q := range w.Pending() {
		if !strings.HasPrefix(q.Name, "xn--") {
			t.Errorf("question about %q", q.Name)
		}
	}
	w.Close()
}

func TestUploadBudget(t *testing.T) {
	w := newWorldWith(t, compiled(t, netfilter.Spec{Rules: []netfilter.Rule{
		{Action: netfilter.Allow, Pattern: "example.com:22/tcp", MaxUpload: 100_000, Origin: netfilter.Origin{Source: "user"}},
		{Action: netfilter.Allow, Pattern: "github.com:22/tcp", Origin: netfilter.Origin{Source: "user"}},
	}}), func(*Config) {})
	w.net.serve(t, 22, echo)
	other := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	sent := 0
	for range 3 { // the budget is the host's, not the connection's
		c, err := w.guest.dial(w.guest.resolve("example.com"), 22)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		for b := make([]byte, 8192); ; {
			if _, err := c.Write(b); err != nil {
				break
			}
			n, err := c.Read(b[:])
			sent += n
			if err != nil {
				break
			}
		}
		c.Close()
	}
	if sent > 100_000 || sent < 50_000 {
		t.Errorf("%d bytes of 100000 came back", sent)
	}
	w.deniedFor(t, reasonBudget)
	echoes(t, other)
}

// TestUploadBudgetIsEachHosts: literal addresses under one rule do not use up each other's.
func TestUploadBudgetIsEachHosts(t *testing.T) {
	w := newWorldWith(t, compiled(t, netfilter.Spec{Rules: []netfilter.Rule{
		{Action: netfilter.Allow, Pattern: "93.184.215.0/24:22/tcp", MaxUpload: 6, Origin: netfilter.Origin{Source: "user"}},
	}}), func(*Config) {})
	w.net.serve(t, 22, echo)
	echoes(t, w.guest.mustDial(public, 22))
	echoes(t, w.guest.mustDial(public.Next(), 22))
	c := w.guest.mustDial(public, 22)
	_, _ = c.Write([]byte("ping"))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("8 bytes of 6 went up")
	}
	w.deniedFor(t, reasonBudget)
}

func TestLiveListsWhatIsOpen(t *testing.T) {
	w := newWorld(t, 0)
	w.net.serve(t, 22, echo)
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	echoes(t, c)
	// The answer can be back before the bytes that went up are counted.
	eventually(t, "the bytes sent", func() bool { l := w.Live(); return len(l) == 1 && l[0].BytesUp == 4 })
	live := w.Live()
	if len(live) != 1 || live[0].Name != "github.com" || live[0].Addr != public.String() || live[0].BytesUp != 4 || live[0].Rule != "github.com:22/tcp" {
		t.Errorf("%+v", live)
	}
	c.Close()
	eventually(t, "no connection", func() bool { return len(w.Live()) == 0 })
}

func TestEntriesNameThePolicy(t *testing.T) {
	m := newMITM(t)
	m.quiet(t)
	refusedDNS(t, m.world, "evil.test", dns.TypeA, dns.RcodeNameError)
	d := m.Denials(time.Time{})
	if len(d) == 0 || d[0].Policy != m.Policy().Hash() || d[0].Kind != audit.DNS {
		t.Errorf("%+v", d)
	}
}
