package netfilter

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// scoped reads "allow PATTERN GET,POST /a/** /b".
func scoped(text string) Rule {
	words := strings.Fields(text)
	r := rule(strings.Join(words[:2], " "))
	for _, w := range words[2:] {
		if strings.HasPrefix(w, "/") {
			r.Paths = append(r.Paths, w)
		} else {
			r.Methods = strings.Split(w, ",")
		}
	}
	return r
}

func compileScoped(t *testing.T, rules ...string) *Policy {
	t.Helper()
	var spec Spec
	for _, r := range rules {
		x := scoped(strings.TrimPrefix(r, "user: "))
		if strings.HasPrefix(r, "user: ") {
			x.Origin.Source = "user"
		}
		spec.Rules = append(spec.Rules, x)
	}
	p, _, err := Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRequests(t *testing.T) {
	clone := []string{"allow github.com:443 GET,HEAD /**", "allow github.com:443 POST /**/git-upload-pack"}
	for _, tc := range []struct {
		rules        []string
		name         string
		port         uint16
		method, path string
		want         string // as in TestDecide, "mitm" behind for intercepted
	}{
		{clone, "github.com", 443, "", "", "+rule mitm"},
		{clone, "github.com", 0, "", "", "+rule mitm"},
		{clone, "github.com", 443, "GET", "/o/r.git/info/refs", "+rule mitm"},
		{clone, "github.com", 443, "get", "/o/r", "+rule mitm"},
		{clone, "github.com", 443, "POST", "/o/r.git/git-upload-pack", "+rule mitm"},
		{clone, "github.com", 443, "POST", "/o/r.git/git-receive-pack", "request"},
		{clone, "github.com", 443, "POST", "/o/r.git/git-receive-pack/../git-upload-pack", "bad_path"},
		{clone, "github.com", 443, "POST", "/o/r.git/git-receive-pack%2f..%2fgit-upload-pack", "bad_path"},
		{clone, "github.com", 443, "POST", "/o/r.git/x%5cgit-upload-pack", "bad_path"},
		{clone, "github.com", 443, "POST", "//git-upload-pack", "bad_path"},
		{clone, "github.com", 443, "GET", "*", "bad_path"},
		{clone, "github.com", 443, "GET", "/a/..;/b", "bad_path"},
		{clone, "github.com", 443, "GET", "/a/..%3b/b", "bad_path"},
		{clone, "github.com", 443, "GET", "/a;b", "bad_path"},
		{clone, "github.com", 443, "GET", "/a#/b", "bad_path"},
		{clone, "github.com", 443, "GET", "/\xff", "bad_path"},
		{clone, "github.com", 443, "GET", "/%c3%a9", "+rule mitm"},
		{[]string{"allow api.x.example GET,OPTIONS"}, "api.x.example", 443, "OPTIONS", "*", "+rule mitm"},
		{clone, "github.com", 443, MethodWebSocket, "/o", "request"},
		{clone, "github.com", 80, "GET", "/", "port"},
		// A narrow allow claims its pattern: a wider rule does not open the rest.
		{[]string{"allow api.x.example GET", "allow **.x.example"}, "api.x.example", 443, "POST", "/", "request"},
		{[]string{"allow api.x.example GET", "allow api.x.example"}, "api.x.example", 443, "POST", "/", "+rule mitm"},
		{[]string{"allow api.x.example GET", "allow **.x.example"}, "b.x.example", 443, "POST", "/", "+rule"},
		{[]string{"deny api.x.example POST", "allow **.x.example"}, "api.x.example", 443, "POST", "/", "deny_rule"},
		{[]string{"deny api.x.example POST", "allow **.x.example"}, "api.x.example", 443, "", "", "+rule mitm"},
		{[]string{"deny api.x.example /admin/**", "allow api.x.example"}, "api.x.example", 443, "GET", "/%61dmin/x", "deny_rule"},
		{[]string{"deny api.x.example /admin/**", "allow api.x.example"}, "api.x.example", 443, "GET", "/admin", "deny_rule"},
		{[]string{"deny api.x.example /admin/**", "allow api.x.example"}, "api.x.example", 443, "GET", "/user", "+rule mitm"},
		{[]string{"deny api.x.example post", "allow api.x.example"}, "api.x.example", 443, "POST", "/user", "deny_rule"},
		{[]string{"allow api.x.example GET", "deny api.x.example"}, "api.x.example", 443, "GET", "/", "+rule mitm"},
		{[]string{"allow api.x.example GET", "deny api.x.example"}, "api.x.example", 443, "PUT", "/", "deny_rule"},
		{[]string{"allow api.x.example GET", "deny api.x.example GET"}, "api.x.example", 443, "GET", "/", "deny_rule"},
		{[]string{"user: deny **.x.example POST", "allow api.x.example"}, "api.x.example", 443, "POST", "/", "deny_rule"},
		{[]string{"user: deny **.x.example POST", "allow api.x.example"}, "api.x.example", 443, "GET", "/", "+rule mitm"},
		// A raw rule of the project cannot take away what the user's rule needs.
		{[]string{"user: deny **.x.example POST", "allow api.x.example:443/tcp"}, "api.x.example", 443, "", "", "+rule mitm"},
	} {
		v := compileScoped(t, tc.rules...).Decide(Request{Name: tc.name, Port: tc.port, Method: tc.method, Path: tc.path})
		got := short(v)
		if v.Intercept && v.Allow {
			got += " mitm"
		}
		if got != tc.want {
			t.Errorf("%q: %s %s:%d%s is %s, want %s", tc.rules, tc.method, tc.name, tc.port, tc.path, got, tc.want)
		}
	}
}

func TestPathPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          bool
	}{
		{"/", "/", true}, {"/**", "/", true}, {"/**", "/a/b/", true}, {"/v1/**", "/v1", true}, {"/v1/**", "/v1/", true}, {"/v1/**", "/v10", false},
		{"/*/x", "/a/x", true}, {"/*/x", "/a/b/x", false}, {"/*.txt", "/a.txt", true}, {"/*.txt", "/.txt", true}, {"/a*b*c", "/aXbYc", true},
		{"/a*b*c", "/acb", false}, {"/**/a/**/b", "/x/a/y/z/b", true}, {"/**/a/**/b", "/x/b/a", false}, {"/a", "/A", false}, {"/a%20b", "/a%20b", true},
		{"/~u", "/%7Eu", true}, {"/a%2Bb", "/a%2bb", true},
	} {
		segments, err := parsePath(tc.pattern)
		if err != nil {
			t.Errorf("%s: %v", tc.pattern, err)
			continue
		}
		path, ok := segmentsOf(tc.path)
		if got := ok && matchSegments(segments, path); got != tc.want {
			t.Errorf("%s matches %s: %v, want %v", tc.pattern, tc.path, got, tc.want)
		}
	}
}

// A rule with methods or paths allows no request that the same rule without them would not.
func TestScopeOnlyNarrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(anyRule), 0, 5).Draw(t, "rules")
		extra := rapid.Custom(anyRule).Draw(t, "extra")
		extra.Action = Allow
		extra.Pattern, _, _ = strings.Cut(extra.Pattern, ":")
		narrow := extra
		narrow.Methods = []string{"GET"}
		req := anyRequest(t)
		req.Method = rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method")
		req.Path = rapid.SampledFrom([]string{"/", "/a", "//"}).Draw(t, "path")
		wide, _, errWide := Compile(Spec{Rules: append(rules[:len(rules):len(rules)], extra)})
		tight, _, errTight := Compile(Spec{Rules: append(rules[:len(rules):len(rules)], narrow)})
		if errWide != nil || errTight != nil {
			t.Fatal(errWide, errTight)
		}
		// With the same action for the same pattern a whole deny is stronger than the whole allow and weaker than
		// the narrow one, which is what narrowness is for: those histories are left out.
		for _, r := range rules {
			if r.Action == Deny {
				return
			}
		}
		if tight.Decide(req).Allow && !wide.Decide(req).Allow {
			t.Fatalf("%+v is allowed by %+v and not by %+v", req, narrow, extra)
		}
	})
}

// What a connection may be made for, and only that: some request is allowed over it.
func TestConnectionIsAllowedForARequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
			r := anyRule(t)
			if !strings.Contains(r.Pattern, "/tcp") {
				r.Methods = rapid.SampledFrom([][]string{nil, {"GET"}, {"POST", "PUT"}}).Draw(t, "methods")
				r.Paths = rapid.SampledFrom([][]string{nil, {"/a/**"}, {"/b"}}).Draw(t, "paths")
			}
			return r
		}), 0, 6).Draw(t, "rules")
		p, _, err := Compile(Spec{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		req := anyRequest(t)
		if req.Port == 0 {
			return
		}
		open := p.Decide(req)
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			for _, path := range []string{"/a/x", "/b", "/c"} {
				req.Method, req.Path = method, path
				if v := p.Decide(req); v.Allow && !open.Allow {
					t.Fatalf("%+v is allowed by %+v, its connection is not", req, v.Rule)
				} else if v.Allow != open.Allow && open.Allow && !open.Intercept && req.Port != 80 {
					t.Fatalf("%+v is denied by %+v on a connection that nobody reads", req, v.Rule)
				}
			}
		}
	})
}

func TestHostRulesAndRanges(t *testing.T) {
	p, _, err := Compile(Spec{
		Default: "deny",
		Rules: []Rule{
			rule("allow 140.82.112.0/20:22/tcp"), rule("deny 140.82.113.0/24"), rule("user: deny 140.82.114.4:22/tcp"), rule("allow 140.82.114.4:22/tcp"),
			rule("user: deny blocked.corp.test"),
		},
		Hosts: []HostRule{
			{Pattern: "db.test:5432/tcp", To: "127.0.0.1:15432", Origin: Origin{Source: "user"}},
			{Pattern: "nas.local", To: "192.168.1.7", Origin: Origin{Source: "user"}},
			{Pattern: "**.corp.test", To: "10.0.0.0/8", Origin: Origin{Source: "user"}},
			{Pattern: "10.20.0.0/16:22/tcp", Origin: Origin{Source: "user"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for req, want := range map[Request]string{
		{Name: "db.test", Port: 5432}:                                "+rule raw",
		{Name: "db.test", Port: 443}:                                 "port",
		{Name: "nas.local", Port: 443}:                               "+rule",
		{Name: "other.local", Port: 443}:                             "local_name",
		{Name: "wiki.corp.test", Port: 443}:                          "+rule",
		{Name: "blocked.corp.test", Port: 443}:                       "deny_rule",
		{Addr: netip.MustParseAddr("140.82.112.3"), Port: 22}:        "+rule raw",
		{Addr: netip.MustParseAddr("140.82.112.3"), Port: 443}:       "port",
		{Addr: netip.MustParseAddr("140.82.113.3"), Port: 22}:        "deny_rule",
		{Addr: netip.MustParseAddr("140.82.114.4"), Port: 22}:        "deny_rule",
		{Addr: netip.MustParseAddr("10.20.1.1"), Port: 22}:           "+rule raw",
		{Addr: netip.MustParseAddr("10.21.1.1"), Port: 22}:           "literal_addr",
		{Addr: netip.MustParseAddr("140.82.112.3")}:                  "literal_addr",
		{Addr: netip.MustParseAddr("::ffff:140.82.112.3"), Port: 22}: "literal_addr",
	} {
		if s := short(p.Decide(req)); s != want {
			t.Errorf("%+v is %s, want %s", req, s, want)
		}
	}
	if got := p.Decide(Request{Name: "db.test", Port: 5432}).Target; got.Addr != netip.MustParseAddr("127.0.0.1") || got.Port != 15432 {
		t.Errorf("db.test leads to %+v", got)
	}
	target := p.Decide(Request{Name: "wiki.corp.test", Port: 443}).Target
	for addr, want := range map[string]bool{"10.1.1.1": true, "11.1.1.1": false, "127.0.0.1": false, "::ffff:10.1.1.1": false} {
		if got := target.Allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("wiki.corp.test at %s: %v", addr, got)
		}
	}
	if shared := (Target{Prefix: netip.MustParsePrefix("100.64.0.0/10")}); shared.Allows(netip.MustParseAddr("100.100.100.200")) {
		t.Error("a range lifts the floor under a metadata service")
	}
}

// TestHostRulesLead: a host rule says where a name leads, also when another rule says what may be asked there.
func TestHostRulesLead(t *testing.T) {
	p, _, err := Compile(Spec{
		Rules: []Rule{
			scoped("allow git.test GET,HEAD /**"), scoped("allow git.test POST /**/git-upload-pack"),
			rule("allow wiki.corp.test"), scoped("allow api.corp.test:443,8443 GET"), rule("deny old.corp.test"),
		},
		Hosts: []HostRule{
			{Pattern: "git.test:443", To: "127.0.0.1:8443"}, {Pattern: "**.corp.test:443", To: "10.0.0.0/8"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	here, corp := Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 8443}, Target{Prefix: netip.MustParsePrefix("10.0.0.0/8")}
	for _, tc := range []struct {
		req   Request
		want  string
		leads Target
	}{
		{Request{Name: "git.test", Port: 443}, "+rule", here},
		{Request{Name: "git.test", Port: 443, Method: "GET", Path: "/r.git/info/refs"}, "+rule", here},
		{Request{Name: "git.test", Port: 443, Method: "POST", Path: "/r.git/git-upload-pack"}, "+rule", here},
		{Request{Name: "git.test", Port: 443, Method: "POST", Path: "/r.git/git-receive-pack"}, "request", Target{}},
		{Request{Name: "wiki.corp.test", Port: 443}, "+rule", corp},
		{Request{Name: "wiki.corp.test", Port: 80}, "+rule", Target{}},
		{Request{Name: "api.corp.test", Port: 443, Method: "GET", Path: "/"}, "+rule", corp},
		{Request{Name: "api.corp.test", Port: 443, Method: "PUT", Path: "/"}, "request", Target{}},
		{Request{Name: "api.corp.test", Port: 8443, Method: "GET", Path: "/"}, "+rule", Target{}},
		{Request{Name: "old.corp.test", Port: 443}, "deny_rule", Target{}},
		{Request{Name: "new.corp.test", Port: 443}, "+rule", corp},
	} {
		if v := p.Decide(tc.req); short(v) != tc.want || v.Target != tc.leads {
			t.Errorf("%+v is %s and leads to %+v, want %s, %+v", tc.req, short(v), v.Target, tc.want, tc.leads)
		}
	}
}

func TestHostRulesThatAreRefused(t *testing.T) {
	for _, h := range []HostRule{
		{Pattern: "a.test", To: "169.254.169.254"}, {Pattern: "a.test", To: "0.0.0.0:80"}, {Pattern: "a.test", To: "224.0.0.1"}, {Pattern: "a.test", To: ""},
		{Pattern: "a.test", To: "localhost:80"}, {Pattern: "a.test", To: "0.0.0.0/0"}, {Pattern: "a.test", To: "169.254.0.0/16"},
		{Pattern: "*.local", To: "127.0.0.1"}, {Pattern: "a.local", To: "10.0.0.0/8"}, {Pattern: "10.0.0.0/8", To: ""},
		{Pattern: "10.0.0.0/8:22/tcp", To: "127.0.0.1"},
		{Pattern: "10.0.0.1/8:22/tcp"}, {Pattern: "fd00::/8"}, {Pattern: "::1"}, {Pattern: "a.test", To: "::ffff:127.0.0.1"},
		{Pattern: "**", To: "10.0.0.0/8"}, {Pattern: "*.com", To: "10.0.0.0/8"}, {Pattern: "**", To: "127.0.0.1:80"},
	} {
		if _, _, err := Compile(Spec{Hosts: []HostRule{h}}); err == nil {
			t.Errorf("%+v is taken", h)
		}
	}
}

func TestAsking(t *testing.T) {
	p, _, err := Compile(Spec{Ask: 30 * time.Second, Rules: []Rule{rule("allow a.test"), rule("deny b.test"), scoped("allow c.test GET")}})
	if err != nil {
		t.Fatal(err)
	}
	for req, want := range map[Request]bool{
		{Name: "a.test", Port: 443}: false, {Name: "a.test", Port: 8443}: true, {Name: "b.test", Port: 443}: false, {Name: "x.test"}: true,
		{Name: "x.test", Port: 443}: true, {Name: "x.local", Port: 443}: false, {Name: "X.test", Port: 443}: false,
		{Name: "c.test", Port: 443, Method: "POST", Path: "/"}: false, {Addr: netip.MustParseAddr("8.8.8.8"), Port: 443}: false,
	} {
		if got := p.Decide(req).Ask; got != want {
			t.Errorf("%+v: ask %v", req, got)
		}
	}
}

func TestSecretsForceReading(t *testing.T) {
	secrets := []Secret{{Name: "KEY", Hosts: []string{"api.test"}, Header: "x-api-key"}}
	p, warnings, err := Compile(Spec{Rules: []Rule{rule("allow api.test"), rule("allow other.test")}, Secrets: secrets})
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if !p.Intercepts("api.test", 443) || p.Intercepts("other.test", 443) || len(p.SecretsFor("api.test")) != 1 || len(p.SecretsFor("x.api.test")) != 0 {
		t.Error("the wrong names are intercepted")
	}
	for _, rules := range [][]Rule{nil, {rule("allow api.test:443/tcp")}} {
		if _, warnings, err := Compile(Spec{Rules: rules, Secrets: secrets}); err != nil || len(warnings) != 1 {
			t.Errorf("%v: warnings %v, %v", rules, warnings, err)
		}
	}
	for _, bad := range []Secret{{Name: "A"}, {Name: "A", Hosts: []string{"*.com"}}, {Name: "A", Hosts: []string{"a.test:443"}},
		{Name: "A", Hosts: []string{"a.test"}, Header: "a b"}} {
		if _, _, err := Compile(Spec{Secrets: []Secret{bad}}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestHashFollowsWhatIsInForce(t *testing.T) {
	hash := func(s Spec) string {
		p, _, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	a := hash(Spec{Rules: []Rule{rule("allow a.test"), rule("deny b.test")}})
	if len(a) != 12 || a != hash(Spec{Rules: []Rule{rule("deny b.test"), rule("allow a.test")}}) {
		t.Errorf("%q depends on the order", a)
	}
	for _, other := range []Spec{{}, {Rules: []Rule{rule("allow a.test")}}, {Rules: []Rule{rule("allow a.test"), scoped("deny b.test GET")}}} {
		if hash(other) == a {
			t.Errorf("%+v has the same hash", other)
		}
	}
}

// TestPathsCostNoMoreThanTheirLength: the longest path that a guest can send, against the worst pattern, decided
// for as many requests as may be in flight when a policy changes.
func TestPathsCostNoMoreThanTheirLength(t *testing.T) {
	p, _, err := Compile(Spec{Rules: []Rule{{Action: Allow, Pattern: "a.test", Paths: []string{"/**/x/x/**/y"}}}})
	if err != nil {
		t.Fatal(err)
	}
	req := Request{Name: "a.test", Port: 443, Method: "GET", Path: strings.Repeat("/x", 16<<10)}
	start := time.Now()
	for range 100 {
		if v := p.Decide(req); v.Allow {
			t.Fatalf("%+v", v)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a hundred decisions took %v", took)
	}
}

// TestDeepPatterns pins what "**" stands for, against trying all places.
func TestDeepPatterns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"**", "*", "a", "b", "a*"})
		pattern := rapid.SliceOfN(piece, 0, 6).Draw(t, "pattern")
		segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", ""}), 0, 7).Draw(t, "segments")
		if got, want := matchSegments(pattern, segments), matchAnywhere(pattern, segments); got != want {
			t.Fatalf("%q, %q: %v, want %v", pattern, segments, got, want)
		}
	})
}

func matchAnywhere(pattern, segments []string) bool {
	if len(pattern) == 0 {
		return len(segments) == 0
	}
	if pattern[0] == "**" {
		return matchAnywhere(pattern[1:], segments) || len(segments) > 0 && matchAnywhere(pattern, segments[1:])
	}
	return len(segments) > 0 && matchText(pattern[0], segments[0]) && matchAnywhere(pattern[1:], segments[1:])
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/%2e%2e/", "//", "/a%zz", "/\x00", "*", "/a/..%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		segments, ok := segmentsOf(path)
		if !ok {
			return
		}
		again, ok := segmentsOf("/" + strings.Join(segments, "/"))
		if !ok && !strings.Contains(path, "%") || ok && strings.Join(again, "/") != strings.Join(segments, "/") {
			t.Fatalf("%q reads as %q, then as %q", path, segments, again)
		}
		for _, s := range segments {
			if s == ".." || s == "." || strings.ContainsAny(s, "/\\\x00") {
				t.Fatalf("%q gives the segment %q", path, s)
			}
		}
	})
}

func FuzzRequestRule(f *testing.F) {
	for _, s := range []string{"a.test", "*.a.test:443,80", "**", "140.82.112.0/20:22/tcp", "[::1]:80", "a.test:1-5/tcp"} {
		f.Add(s, "GET", "/v1/**")
	}
	f.Fuzz(func(t *testing.T, pattern, method, path string) {
		p, _, err := Compile(Spec{Rules: []Rule{{Action: Allow, Pattern: pattern, Methods: []string{method},
			Paths: []string{path}}, {Action: Allow, Pattern: pattern}}})
		if err != nil {
			return
		}
		for _, name := range []string{"a.test", "evil.example", "localhost", pattern} {
			if v := p.Decide(Request{Name: name, Port: 443, Method: method, Path: path}); v.Allow && v.Rule == nil {
				t.Fatalf("%q is allowed by nothing under %q", name, pattern)
			}
		}
	})
}
