package learn

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// entry reads "NAME" (a refused lookup), "NAME:PORT", "REASON NAME:PORT" and "no NAME", "yes NAME" for answers.
func entry(text string) audit.Entry {
	e := audit.Entry{Kind: audit.DNS, Verdict: audit.VerdictDeny, Reason: netfilter.ReasonNoRule}
	reason, rest, ok := strings.Cut(text, " ")
	switch {
	case !ok:
		rest = text
	case reason == "no" || reason == "yes":
		e.Kind, e.Reason = audit.Ask, netfilter.ReasonAnswer
		if reason == "yes" {
			e.Verdict = audit.VerdictAllow
		}
	default:
		e.Reason = reason
	}
	name, port, ok := strings.Cut(rest, ":")
	e.Name = name
	if ok {
		if e.Kind == audit.DNS {
			e.Kind = audit.Connect
		}
		fmt.Sscan(port, &e.Port)
	}
	return e
}

func propose(existing *netfilter.Policy, texts ...string) []string {
	var entries []audit.Entry
	for _, t := range texts {
		entries = append(entries, entry(t))
	}
	var got []string
	for _, p := range Propose(entries, existing) {
		got = append(got, p.Pattern)
	}
	slices.Sort(got)
	return got
}

func TestPropose(t *testing.T) {
	existing, _, err := netfilter.Compile(netfilter.Spec{Rules: []netfilter.Rule{
		{Action: netfilter.Allow, Pattern: "known.example.com"}, {Action: netfilter.Deny, Pattern: "**.bad.com"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ in, want []string }{
		"nothing":        {nil, nil},
		"a name":         {[]string{"a.example.com", "a.example.com"}, []string{"a.example.com"}},
		"with its port":  {[]string{"a.example.com:443", "a.example.com"}, []string{"a.example.com:443"}},
		"raw":            {[]string{"port github.com:22", "github.com:443"}, []string{"github.com:22/tcp,443"}},
		"two siblings":   {[]string{"a.example.com", "b.example.com"}, []string{"a.example.com", "b.example.com"}},
		"three siblings": {[]string{"a.example.com", "b.example.com", "c.example.com"}, []string{"*.example.com"}},
		"deep siblings":  {[]string{"a.cdn.example.com", "b.cdn.example.com", "c.cdn.example.com"}, []string{"*.cdn.example.com"}},
		"a family":       {[]string{"example.com", "a.example.com", "b.c.example.com"}, []string{"**.example.com"}},
		"two families":   {[]string{"a.x.example.com", "b.x.example.com", "c.x.example.com", "example.com"}, []string{"*.x.example.com", "example.com"}},
		"other ports": {
			[]string{"a.example.com:443", "b.example.com:443", "c.example.com:80"},
			[]string{"a.example.com:443", "b.example.com:443", "c.example.com:80"},
		},
		"the same ports":  {[]string{"a.example.com:443", "b.example.com:443", "c.example.com:443"}, []string{"*.example.com:443"}},
		"a public suffix": {[]string{"a.co.uk", "b.co.uk", "c.co.uk"}, []string{"a.co.uk", "b.co.uk", "c.co.uk"}},
		"tenants":         {[]string{"a.github.io", "b.github.io", "c.github.io"}, []string{"a.github.io", "b.github.io", "c.github.io"}},
		"a tenant's own":  {[]string{"x.a.github.io", "y.a.github.io", "z.a.github.io"}, []string{"*.a.github.io"}},
		"shared names": {
			[]string{"a.googleapis.com", "b.googleapis.com", "c.googleapis.com"},
			[]string{"a.googleapis.com", "b.googleapis.com", "c.googleapis.com"},
		},
		"known":           {[]string{"known.example.com:443", "x.bad.com"}, nil},
		"a port of known": {[]string{"port known.example.com:8443"}, []string{"known.example.com:8443"}},
		"denied by rule":  {[]string{"deny_rule a.example.com", "local_name a.local", "bad_name A.example.com"}, nil},
		"not canonical":   {[]string{"A.example.com", "a..com", "1.2.3.4", "localhost", "x\x1b[2J.com", "db"}, nil},
		"let through":     {[]string{"default a.example.com:443"}, []string{"a.example.com:443"}},
		"said no":         {[]string{"a.example.com:443", "no a.example.com:443"}, nil},
		"said yes":        {[]string{"yes a.example.com:443"}, []string{"a.example.com:443"}},
		"no to one of four": {
			[]string{"no evil.example.com", "a.example.com", "b.example.com", "c.example.com"},
			[]string{"a.example.com", "b.example.com", "c.example.com"},
		},
		"no, then yes after": {[]string{"no a.example.com:443", "yes a.example.com:443"}, []string{"a.example.com:443"}},
	} {
		if got := propose(existing, tc.in...); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestTheMostWantedIsFirst(t *testing.T) {
	many := entry("b.example.com")
	many.Count = 41
	got := Propose([]audit.Entry{entry("a.example.org"), many, entry("b.example.com")}, nil)
	if len(got) != 2 || got[0] != (Proposal{"b.example.com", "wanted 42 times", 42}) || got[1].Why != "wanted once" {
		t.Errorf("%+v", got)
	}
}

func TestAFloodIsBounded(t *testing.T) {
	var entries []audit.Entry
	for i := range 3 * maxNames {
		entries = append(entries, entry(fmt.Sprintf("x%d.d%d.com:443", i, i%1000)), entry(fmt.Sprintf("a.example.com:%d", i+1)))
	}
	if got := Propose(entries, nil); len(got) > maxProposals {
		t.Errorf("%d proposals", len(got))
	}
}

// TestProposalsDoWhatTheySay: each compiles without a warning of a shared name, all of what was wanted is allowed with
// them, and no name that the user said no to.
func TestProposalsDoWhatTheySay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			name := rapid.SampledFrom([]string{"a", "b", "c.d", "e.d", "f.d", "g.h.d"}).Draw(t, "label") + "." +
				rapid.SampledFrom([]string{"example.com", "example.co.uk", "github.io", "amazonaws.com"}).Draw(t, "domain")
			return rapid.SampledFrom([]string{"", "", "", "no "}).Draw(t, "answer") + name + rapid.SampledFrom([]string{":443", ":22", ":8080"}).Draw(t, "port")
		}), 0, 20).Draw(t, "entries")
		var spec netfilter.Spec
		for _, pattern := range propose(nil, texts...) {
			spec.Rules = append(spec.Rules, netfilter.Rule{Action: netfilter.Allow, Pattern: pattern})
		}
		policy, warnings, err := netfilter.Compile(spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range warnings {
			if strings.HasPrefix(w.Rule.Pattern, "*") && strings.Contains(w.Text, "anybody") {
				t.Fatal(w)
			}
		}
		no := map[string]bool{}
		for _, text := range texts {
			if e := entry(text); e.Kind == audit.Ask {
				no[e.Name] = true
			}
		}
		for _, text := range texts {
			e := entry(text)
			if v := policy.Decide(netfilter.Request{Name: e.Name, Port: e.Port}); v.Allow == no[e.Name] {
				t.Fatalf("%s: allowed %v by %v", text, v.Allow, v.Rule)
			}
		}
	})
}
