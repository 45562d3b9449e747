package netfilter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anyScoped draws rules with methods and paths too.
func anyScoped(t *rapid.T) Rule {
	r := anyRule(t)
	if !strings.Contains(r.Pattern, "/tcp") {
		r.Methods = rapid.SampledFrom([][]string{nil, nil, {"GET"}, {"POST", "PUT"}}).Draw(t, "methods")
		r.Paths = rapid.SampledFrom([][]string{nil, nil, {"/a/**"}, {"/b", "/**/c"}}).Draw(t, "paths")
	}
	return r
}

func anySpec(t *rapid.T) Spec {
	return Spec{
		Default: rapid.SampledFrom([]string{"", "deny", "allow"}).Draw(t, "default"),
		Ask:     rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "ask"),
		Rules:   rapid.SliceOfN(rapid.Custom(anyScoped), 0, 7).Draw(t, "rules"),
	}
}

func anyFullRequest(t *rapid.T) Request {
	req := anyRequest(t)
	if req.Port != 0 {
		req.Method = rapid.SampledFrom([]string{"", "GET", "POST", "DELETE", MethodWebSocket}).Draw(t, "method")
		req.Path = rapid.SampledFrom([]string{"/", "/a", "/a/x", "/b", "/x/c", "//", "/a/../b", "*"}).Draw(t, "path")
	}
	return req
}

func mustCompile(t *rapid.T, s Spec) *Policy {
	p, _, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDenyNeverWidens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, req := anySpec(t), anyFullRequest(t)
		before := mustCompile(t, spec).Decide(req)
		deny := rapid.Custom(anyScoped).Draw(t, "deny")
		deny.Action = Deny
		spec.Rules = append(spec.Rules[:len(spec.Rules):len(spec.Rules)], deny)
		after := mustCompile(t, spec).Decide(req)
		if after.Allow && !before.Allow || after.Raw && !before.Raw || after.Allow && before.Intercept && !after.Intercept {
			t.Fatalf("%+v: %+v with %+v, %+v without", req, after, deny, before)
		}
	})
}

func TestOrderDecidesNothingOfRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, req := anySpec(t), anyFullRequest(t)
		a := mustCompile(t, spec)
		spec.Rules = rapid.Permutation(spec.Rules).Draw(t, "order")
		b := mustCompile(t, spec)
		va, vb := a.Decide(req), b.Decide(req)
		if show(va) != show(vb) || a.Hash() != b.Hash() {
			t.Fatalf("%+v: %s, in another order %s", req, show(va), show(vb))
		}
	})
}

func show(v Verdict) string {
	rule := v.Rule
	v.Rule = nil
	return fmt.Sprint(v, rule)
}

// TestAskingIsForWhatNobodyDecided: never after a deny rule, for an address or a local name, nor where something is allowed.
func TestAskingIsForWhatNobodyDecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, req := anySpec(t), anyFullRequest(t)
		v := mustCompile(t, spec).Decide(req)
		if v.Ask && (v.Allow || v.Rule != nil || spec.Ask == 0 || v.Reason != ReasonNoRule && v.Reason != ReasonPort) {
			t.Fatalf("%+v: %+v", req, v)
		}
		spec.Ask = 0
		without := mustCompile(t, spec).Decide(req)
		if v.Ask = false; show(v) != show(without) {
			t.Fatalf("%+v: %s, without questions %s", req, show(v), show(without))
		}
	})
}

// FuzzDecide asks hostile questions of a policy with everything in it: there is always an answer, and a
// name that no rule spells is not allowed.
func FuzzDecide(f *testing.F) {
	p, _, err := Compile(Spec{
		Presets: []string{"github-clone"}, Ask: time.Second, Secrets: []Secret{{Name: "K", Hosts: []string{"a.test"}}},
		Hosts: []HostRule{{Pattern: "db.local:5432/tcp", To: "127.0.0.1"}, {Pattern: "10.1.0.0/16:22/tcp"}},
		Rules: []Rule{rule("allow a.test"), rule("allow **.b.test:1-65535/tcp"), rule("allow 140.82.112.0/20:22/tcp"), scoped("deny a.test POST /x/**")},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.test", uint16(443), "POST", "/x/%2e%2e/y", []byte{})
	f.Add("db.local", uint16(5432), "", "", []byte{10, 1, 2, 3})
	f.Add("github.com", uint16(443), "POST", "/o/r/git-upload-pack", []byte{})
	f.Fuzz(func(t *testing.T, name string, port uint16, method, path string, addr []byte) {
		req := Request{Name: name, Port: port, Method: method, Path: path}
		req.Addr, _ = netip.AddrFromSlice(addr)
		v := p.Decide(req)
		if v.Reason == "" || v.Allow && (v.Ask || v.Rule == nil) || v.Raw && v.Intercept {
			t.Fatalf("%+v: %+v", req, v)
		}
		known := name == "a.test" || name == "b.test" || strings.HasSuffix(name, ".b.test") || name == "db.local" || name == "github.com"
		if v.Allow && !known && !req.Addr.IsValid() {
			t.Fatalf("%+v is allowed by %+v", req, v.Rule)
		}
		if v.Allow && req.Addr.IsValid() && (port != 22 || !req.Addr.Is4()) {
			t.Fatalf("%+v is allowed by %+v", req, v.Rule)
		}
		if name == "a.test" && strings.EqualFold(method, "POST") && strings.HasPrefix(path, "/x/") && v.Allow {
			t.Fatalf("%+v is allowed by %+v", req, v.Rule)
		}
	})
}
