package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rule reads "allow PATTERN" and "deny PATTERN", with "user:" or the like before.
func rule(text string) Rule {
	source, rest, ok := strings.Cut(text, ": ")
	if !ok {
		source, rest = "project", text
	}
	action, pattern, _ := strings.Cut(rest, " ")
	return Rule{Action: Action(action), Pattern: pattern, Origin: Origin{Source: source}}
}

func compile(t interface {
	Helper()
	Fatalf(string, ...any)
}, def string, rules ...string) *Policy {
	t.Helper()
	spec := Spec{Default: def}
	for _, r := range rules {
		spec.Rules = append(spec.Rules, rule(r))
	}
	p, _, err := Compile(spec)
	if err != nil {
		t.Fatalf("compile %v: %v", rules, err)
	}
	return p
}

// TestDecide plays the policy of the case list, and C1, C8, N4, N6, N7, P1, P11.
func TestDecide(t *testing.T) {
	cases := []string{"allow example.com", "allow *.allowed.test", "allow api.anthropic.com", "allow github.com:22/tcp"}
	for _, tc := range []struct {
		rules []string
		name  string
		port  uint16
		want  string // "reason", with "+" before for allowed and "raw" behind
	}{
		{cases, "example.com", 443, "+rule"},
		{cases, "example.com", 80, "+rule"},
		{cases, "example.com", 0, "+rule"},
		{cases, "example.com", 8443, "port"},
		{cases, "example.com", 22, "port"},
		{cases, "github.com", 22, "+rule raw"},
		{cases, "github.com", 443, "port"},
		{cases, "github.com", 0, "+rule raw"},
		{cases, "evil-example.com", 443, "no_rule"},
		{cases, "notallowed.test", 0, "no_rule"},
		{cases, "a.allowed.test", 443, "+rule"},
		{cases, "allowed.test", 443, "no_rule"},
		{cases, "a.b.allowed.test", 443, "no_rule"},
		{cases, "EXAMPLE.com", 443, "bad_name"},
		{cases, "example.com.", 443, "bad_name"},
		{cases, "", 443, "bad_name"},
		{cases, "localhost", 0, "local_name"},
		{cases, "wpad", 0, "local_name"},
		{cases, "x.internal", 0, "local_name"},
		{nil, "example.com", 443, "no_rule"},
		{[]string{"allow **.x.example"}, "x.example", 443, "+rule"},
		{[]string{"allow **.x.example"}, "a.b.x.example", 443, "+rule"},
		{[]string{"allow **.x.example"}, "ax.example", 443, "no_rule"},
		{[]string{"allow *.x.example", "deny bad.x.example"}, "bad.x.example", 443, "deny_rule"},
		{[]string{"allow *.x.example", "deny bad.x.example"}, "good.x.example", 443, "+rule"},
		{[]string{"allow good.x.example", "deny **.x.example"}, "good.x.example", 443, "+rule"},
		{[]string{"allow *.x.example", "deny **.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"allow **.a.x.example", "deny *.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"allow a.example", "deny a.example"}, "a.example", 443, "deny_rule"},
		{[]string{"allow a.example", "deny a.example:80"}, "a.example", 80, "deny_rule"},
		{[]string{"allow a.example", "deny a.example:80"}, "a.example", 443, "+rule"},
		{[]string{"allow a.example", "deny a.example:80"}, "a.example", 0, "+rule"},
		{[]string{"allow a.example:22/tcp", "deny a.example"}, "a.example", 22, "deny_rule"},
		{[]string{"allow a.example:22/tcp", "deny a.example"}, "a.example", 0, "deny_rule"},
		{[]string{"allow a.example:1000-2000", "deny a.example:1000-1999"}, "a.example", 0, "+rule"},
		{[]string{"allow a.example:1000-2000", "deny a.example:1000-2000"}, "a.example", 0, "deny_rule"},
		{[]string{"allow a.example:443/tcp", "allow a.example"}, "a.example", 443, "+rule"},
		{[]string{"user: allow a.example:443/tcp", "allow a.example"}, "a.example", 443, "+rule"},
		{[]string{"allow a.example:1-65535/tcp,443"}, "a.example", 443, "+rule"},
		{[]string{"allow a.example:1-65535/tcp,443"}, "a.example", 444, "+rule raw"},
		// The user's deny stands whatever the project or a preset says; the user's own more specific allow lifts it.
		{[]string{"user: deny **.x.example", "allow a.x.example"}, "a.x.example", 443, "deny_rule"},
		{[]string{"user: deny **.x.example", "preset:p: allow a.x.example"}, "a.x.example", 443, "deny_rule"},
		{[]string{"runtime: deny **.x.example", "allow a.x.example"}, "a.x.example", 443, "deny_rule"},
		{[]string{"user: deny **.x.example", "user: allow a.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"user: deny **.x.example", "runtime: allow a.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"user: deny **.x.example", "allow a.x.example"}, "a.x.example", 0, "deny_rule"},
		{[]string{"user: deny **.x.example:80", "allow a.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"deny **.x.example", "user: allow a.x.example"}, "a.x.example", 443, "+rule"},
		{[]string{"user: deny **", "allow a.x.example"}, "a.x.example", 443, "deny_rule"},
	} {
		got := compile(t, "", tc.rules...).Decide(Request{Name: tc.name, Port: tc.port})
		if s := short(got); s != tc.want {
			t.Errorf("%v: %s:%d is %s, want %s", tc.rules, tc.name, tc.port, s, tc.want)
		}
	}
}

func short(v Verdict) string {
	s := v.Reason
	if v.Allow {
		s = "+" + s
	}
	if v.Raw {
		s += " raw"
	}
	return s
}

func TestRulesComeStrongestFirst(t *testing.T) {
	var got []string
	for _, r := range compile(t, "", "allow **.x.example", "allow a.x.example", "deny *.x.example", "allow *.x.example", "deny **").Rules() {
		got = append(got, string(r.Action)+" "+r.Pattern)
	}
	want := []string{"allow a.x.example", "deny *.x.example", "allow *.x.example", "allow **.x.example", "deny **"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDefaultAllow(t *testing.T) {
	p := compile(t, "allow", "deny **.evil.example", "allow **:9418/tcp", "deny **.ru")
	for req, want := range map[Request]string{
		{Name: "any.example", Port: 443}:                                       "+default",
		{Name: "any.example", Port: 80}:                                        "+default",
		{Name: "any.example", Port: 22}:                                        "port",
		{Name: "any.example", Port: 9418}:                                      "+rule raw",
		{Name: "a.evil.example", Port: 443}:                                    "deny_rule",
		{Name: "a.evil.example"}:                                               "deny_rule",
		{Name: "x.ru", Port: 443}:                                              "deny_rule",
		{Name: "router", Port: 80}:                                             "local_name",
		{Name: "host.docker.internal", Port: 80}:                               "local_name",
		{Addr: netip.MustParseAddr("1.1.1.1"), Port: 443}:                      "literal_addr",
		{Addr: netip.MustParseAddr("1.1.1.1"), Name: "any.example", Port: 443}: "literal_addr",
	} {
		if s := short(p.Decide(req)); s != want {
			t.Errorf("%+v is %s, want %s", req, s, want)
		}
	}
}

func TestCompileSaysAllThatIsWrong(t *testing.T) {
	_, _, err := Compile(Spec{
		Default: "audit", Ask: time.Hour, Presets: []string{"nope"},
		Rules: []Rule{
			{Action: "permit", Pattern: "a.example"},
			{Action: Allow, Pattern: "b.example", Methods: []string{"GE T"}},
			{Action: Deny, Pattern: "c.example", Paths: []string{"/a/../b"}},
			{Action: Allow, Pattern: "d.example:22/tcp", Methods: []string{"GET"}},
			{Action: Allow, Pattern: "10.0.0.0/8:22/tcp"},
			{Action: Allow, Pattern: "140.82.112.0/20:443"},
			{Action: Deny, Pattern: "e.example", MaxUpload: 1},
			{Action: Allow, Pattern: "*.com"},
		},
	})
	for _, want := range []string{
		`"audit"`, "ask", `"nope"`, `"permit"`, `method "GE T"`, `path "/a/../b"`, `"d.example:22/tcp"`, `"*.com"`, "host: rule in your own",
		"write each port as 22/tcp", "max_upload",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
	var re *RuleError
	if !errors.As(err, &re) {
		t.Errorf("no RuleError in %v", err)
	}
	if _, _, err := Compile(Spec{Rules: slices.Repeat([]Rule{rule("allow a.example")}, maxRules+1)}); err == nil {
		t.Error("no bound on rules")
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string][]string{
		"allow a.example|deny a.example":                           {"has no effect"},
		"allow a.example|deny a.example:80":                        nil,
		"allow a.example|user: deny **.example.org":                nil,
		"allow a.x.example|user: deny **.x.example":                {"has no effect"},
		"deny a.x.example|allow **.x.example":                      nil,
		"allow **.x.example|deny *.x.example":                      nil,
		"allow a.example|allow a.example:443":                      {"has no effect"},
		"preset:p: allow a.example|allow a.example":                nil,
		"allow storage.googleapis.com":                             {"anybody can have an account"},
		"allow **.googleapis.com":                                  {"storage.googleapis.com"},
		"allow *.r2.cloudflarestorage.com":                         {"r2.cloudflarestorage.com"},
		"allow *.github.io":                                        {"github.io"},
		"allow *.s3.amazonaws.com":                                 {"s3.amazonaws.com"},
		"allow **.github.com":                                      {"gist.github.com"},
		"allow *.blob.core.windows.net":                            {"blob.core.windows.net"},
		"allow mybucket.s3.amazonaws.com":                          nil,
		"deny **.github.com":                                       nil,
		"preset:p: allow raw.githubusercontent.com":                nil,
		"allow a.example:443|allow a.example:8443|allow b.example": nil,
	} {
		var spec Spec
		for r := range strings.SplitSeq(text, "|") {
			spec.Rules = append(spec.Rules, rule(r))
		}
		_, got, err := Compile(spec)
		if err != nil || len(got) != len(want) {
			t.Errorf("%s: warnings %v, %v, want %q", text, got, err, want)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i].String(), want[i]) {
				t.Errorf("%s: warning %q, want %q", text, got[i], want[i])
			}
		}
	}
}

// anyRule draws from few names and ports, so that rules meet.
func anyRule(t *rapid.T) Rule {
	name := rapid.SampledFrom([]string{"x.example", "a.x.example", "b.a.x.example", "y.example"}).Draw(t, "name")
	star := rapid.SampledFrom([]string{"", "*.", "**."}).Draw(t, "star")
	ports := rapid.SampledFrom([]string{"", ":443", ":80-444", ":443/tcp", ":22/tcp,8443", ":1-65535"}).Draw(t, "ports")
	return Rule{
		Action:  rapid.SampledFrom([]Action{Allow, Deny}).Draw(t, "action"),
		Pattern: star + name + ports,
		Origin:  Origin{Source: rapid.SampledFrom([]string{"user", "project", "runtime", "preset:p", ""}).Draw(t, "source")},
	}
}

func anyRequest(t *rapid.T) Request {
	return Request{
		Name: rapid.SampledFrom([]string{"x.example", "a.x.example", "b.a.x.example", "c.b.a.x.example", "z.y.example", "other.test"}).Draw(t, "request"),
		Port: rapid.SampledFrom([]uint16{0, 22, 80, 443, 444, 8443, 65535}).Draw(t, "port"),
	}
}

func TestOrderDecidesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(anyRule), 0, 8).Draw(t, "rules")
		a, wa, errA := Compile(Spec{Rules: rules})
		b, wb, errB := Compile(Spec{Rules: rapid.Permutation(rules).Draw(t, "order")})
		if errA != nil || errB != nil || fmt.Sprint(wa) != fmt.Sprint(wb) {
			t.Fatalf("errors %v, %v; warnings %v, %v", errA, errB, wa, wb)
		}
		req := anyRequest(t)
		if va, vb := a.Decide(req), b.Decide(req); fmt.Sprint(short(va), va.Rule) != fmt.Sprint(short(vb), vb.Rule) {
			t.Fatalf("%+v: %s by %v, other order %s by %v", req, short(va), va.Rule, short(vb), vb.Rule)
		}
	})
}

func TestDenyWinsBetweenEquals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(anyRule), 0, 6).Draw(t, "rules")
		req := anyRequest(t)
		p, _, err := Compile(Spec{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		v := p.Decide(req)
		if !v.Allow {
			return
		}
		against := *v.Rule
		against.Action = Deny
		p, _, err = Compile(Spec{Rules: append(rules, against)})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Decide(req); req.Port != 0 && got.Allow {
			t.Fatalf("%+v is allowed by %v beside its own deny", req, got.Rule)
		}
	})
}

// TestUsersDenyStands: adding rules of the project or a preset never opens what
// the user closed.
func TestUsersDenyStands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(anyRule), 0, 8).Draw(t, "rules")
		mine := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool {
			return r.Origin.Source != "user" && r.Origin.Source != "runtime"
		})
		req := anyRequest(t)
		users, _, err := Compile(Spec{Rules: mine})
		if err != nil {
			t.Fatal(err)
		}
		all, _, err := Compile(Spec{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		if req.Port != 0 && users.Decide(req).Reason == ReasonDenied && all.Decide(req).Allow {
			t.Fatalf("%+v: the user denies it and %v opens it", req, all.Decide(req).Rule)
		}
	})
}

// TestNameIsAllowedWhenAPortIs holds Port 0 to its meaning by asking every port.
func TestNameIsAllowedWhenAPortIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _, err := Compile(Spec{Rules: rapid.SliceOfN(rapid.Custom(anyRule), 0, 5).Draw(t, "rules")})
		if err != nil {
			t.Fatal(err)
		}
		name := anyRequest(t).Name
		some := slices.ContainsFunc([]uint16{1, 21, 22, 23, 79, 80, 81, 442, 443, 444, 445, 8442, 8443, 8444, 65535}, func(port uint16) bool {
			return p.Decide(Request{Name: name, Port: port}).Allow
		})
		if got := p.Decide(Request{Name: name}).Allow; got != some {
			t.Fatalf("%s may be resolved: %v, has an allowed port: %v, by %v", name, got, some, p.Rules())
		}
	})
}

func TestPresetsCompile(t *testing.T) {
	presets, err := Presets()
	if err != nil {
		t.Fatal(err)
	}
	for _, preset := range presets {
		if preset.Description == "" || len(preset.Rules) == 0 {
			t.Errorf("preset %q is empty", preset.Name)
		}
		_, _, err := Compile(Spec{Presets: []string{preset.Name}})
		if err != nil {
			t.Errorf("preset %q: %v", preset.Name, err)
		}
	}
	p, _, err := Compile(Spec{Presets: []string{"npm", "pypi", "debian", "npm"}})
	if err != nil {
		t.Fatal(err)
	}
	for req, want := range map[Request]bool{
		{Name: "www.npmjs.org", Port: 443}:          true,
		{Name: "www.npmjs.org", Port: 80}:           false,
		{Name: "ftp.debian.org", Port: 80}:          true,
		{Name: "upload.pypi.org", Port: 443}:        false,
		{Name: "files.pythonhosted.org", Port: 443}: true,
		{Name: "www.npmjs.org.evil.test"}:           false,
	} {
		if got := p.Decide(req).Allow; got != want {
			t.Errorf("%+v: allowed %v", req, got)
		}
	}
}
