package netfilter

import (
	"strings"
	"testing"
)

func TestPatternsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "is empty",
		"*":                      "names no domain",
		"**":                     "default: allow",
		"*.com":                  "public suffix",
		"**.com":                 "public suffix",
		"*.co.uk":                "public suffix",
		"**.co.uk":               "public suffix",
		"*.kawasaki.jp":          "public suffix",
		"**.kawasaki.jp":         "public suffix",
		"**.com.ck":              "public suffix",
		"*.test":                 "public suffix",
		"*.xn--p1ai":             "public suffix",
		"ex*mple.com":            "a star stands only",
		"*example.com":           "a star stands only",
		"example.*":              "a star stands only",
		"*.*.example.com":        "a star stands only",
		"***.example.com":        "a star stands only",
		".example.com":           "begins with a dot",
		"*..example.com":         "begins with a dot",
		"https://example.com":    "is a URL",
		"example.com/path":       "more than a host name",
		"user@example.com":       "more than a host name",
		"127.1":                  "is an address",
		"0x7f000001":             "is an address",
		"::1":                    "is an address",
		"[::1]:443":              "is an address",
		"fe80::1%eth0":           "is an address",
		"2001:db8::/32":          "is an address",
		"*.1.2.3.4":              "is an address",
		"localhost":              "is local",
		"db":                     "is local",
		"printer.local":          "is local",
		"*.internal":             "is local",
		"**.corp.internal":       "is local",
		"host.docker.internal":   "is local",
		"1.0.0.127.in-addr.arpa": "is local",
		"example.com:":           "port is missing",
		"example.com:0":          "must be a number",
		"example.com:65536":      "must be a number",
		"example.com:0443":       "must be a number",
		"example.com:0x1bb":      "must be a number",
		"example.com:1_000":      "must be a number",
		"example.com:1e3":        "must be a number",
		"example.com:+443":       "must be a number",
		"example.com:443,":       "port is missing",
		"example.com:443, 80":    "must be a number",
		"example.com:9-8":        "ends before it begins",
		"example.com:53/udp":     "only /tcp",
		"example.com:22/TCP":     "only /tcp",
		"example.com:443:80":     "is an address",
		"example.com:" + strings.Repeat("1,", 16) + "2": "more than 16",
		"exa mple.com":           "only letters",
		"a_b.example.com":        "only letters",
		"example.com\n- '**'":    "a star stands only",
		"example.com\n":          "only letters",
		"ｅxample.com":            "no valid international name",
		"example。com":            "no valid international name",
		strings.Repeat("a", 600): "more than 512",
	} {
		_, _, err := Compile(Spec{Rules: []Rule{{Action: Allow, Pattern: text}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("allow %q: error %v, want one with %q", text, err, want)
		}
	}
}

func TestPatternsThatAreTaken(t *testing.T) {
	for text, want := range map[string]pattern{
		"example.com":                  {kind: kindExact, base: "example.com", ports: nil},
		"EXAMPLE.com.":                 {kind: kindExact, base: "example.com", ports: nil},
		"*.example.org:443,8443":       {kind: kindChild, base: "example.org", ports: []portRange{{443, 443, false}, {8443, 8443, false}}},
		"**.example.net:8000-8100":     {kind: kindBelow, base: "example.net", ports: []portRange{{8000, 8100, false}}},
		"github.com:22/tcp":            {kind: kindExact, base: "github.com", ports: []portRange{{22, 22, true}}},
		"a.example:1-65535/tcp,443":    {kind: kindExact, base: "a.example", ports: []portRange{{1, 65535, true}, {443, 443, false}}},
		"exаmple.com":                  {kind: kindExact, base: "xn--exmple-4nf.com", ports: nil},
		"**.BÜCHER.example":            {kind: kindBelow, base: "xn--bcher-kva.example", ports: nil},
		"*.s3.eu-west-1.amazonaws.com": {kind: kindChild, base: "s3.eu-west-1.amazonaws.com", ports: nil},
		"*.github.io":                  {kind: kindChild, base: "github.io", ports: nil},
		"*.allowed.test":               {kind: kindChild, base: "allowed.test", ports: nil},
	} {
		got, err := parsePattern(text)
		if err != nil || got.kind != want.kind || got.base != want.base || len(got.ports) != len(want.ports) {
			t.Errorf("parsePattern(%q) = %+v, %v, want %+v", text, got, err, want)
			continue
		}
		for i := range want.ports {
			if got.ports[i] != want.ports[i] {
				t.Errorf("parsePattern(%q): port %+v, want %+v", text, got.ports[i], want.ports[i])
			}
		}
		if _, _, err := Compile(Spec{Rules: []Rule{{Action: Allow, Pattern: text}}}); err != nil {
			t.Errorf("allow %q: %v", text, err)
		}
	}
}

// FuzzRule compiles hostile rules: no panic, and what compiles decides within
// its own words.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{"example.com", "*.example.org:443,8443", "**.x.example:1-2/tcp", "exаmple.com", "[::1]:1", "*.co.uk", "a:1:2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, _, err := Compile(Spec{Rules: []Rule{{Action: Allow, Pattern: text}}})
		if err != nil {
			return
		}
		if p.rules[0].pat.kind == kindRange {
			return
		}
		if v := p.Decide(Request{Name: p.rules[0].pat.typical()}); !v.Allow {
			t.Fatalf("%q compiles and its own name %q is not allowed: %+v", text, p.rules[0].pat.typical(), v)
		}
		for _, name := range []string{"com", "co.uk", "localhost", "evil.test", "sbx-other.com", "sbx-other.co.uk"} {
			if v := p.Decide(Request{Name: name}); v.Allow && p.rules[0].pat.base != name {
				t.Fatalf("%q allows %q", text, name)
			}
		}
	})
}

func TestCanonicalPattern(t *testing.T) {
	for in, want := range map[string]string{
		"API.Example.com": "api.example.com", "*.Example.ORG:443,8443": "*.example.org:443,8443", "**.x.test": "**.x.test",
		"m\u00fcnchen.de:22/tcp": "xn--mnchen-3ya.de:22/tcp", "\u0430.example.com": "xn--80a.example.com", "a.example.com.": "a.example.com",
		"140.82.112.0/20:22/tcp": "140.82.112.0/20:22/tcp", "not a name": "not a name", "": "", "**": "**", "https://a.test": "https://a.test",
	} {
		if got := CanonicalPattern(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
