package configs

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAppendAllow(t *testing.T) {
	const rule = "new.example.com:443"
	for name, tc := range map[string]struct{ in, want string }{
		"empty":          {"", "network:\n  allow:\n    - \"new.example.com:443\"\n"},
		"comments alone": {"# nothing yet\n", "# nothing yet\nnetwork:\n  allow:\n    - \"new.example.com:443\"\n"},
		"no network":     {"version: 1 # one\n", "version: 1 # one\nnetwork:\n  allow:\n    - \"new.example.com:443\"\n"},
		"no newline":     {"version: 1", "version: 1\nnetwork:\n  allow:\n    - \"new.example.com:443\"\n"},
		"null network":   {"network: # later\nversion: 1\n", "network: # later\n  allow:\n    - \"new.example.com:443\"\nversion: 1\n"},
		"no allow": {
			"network:\n    # mine\n    default: deny\n",
			"network:\n    allow:\n      - \"new.example.com:443\"\n    # mine\n    default: deny\n",
		},
		"null allow":     {"network:\n  allow: # none\n  deny: []\n", "network:\n  allow: # none\n    - \"new.example.com:443\"\n  deny: []\n"},
		"flow network":   {"network: {presets: [npm]} # n\n", "network: {allow: [\"new.example.com:443\"], presets: [npm]} # n\n"},
		"empty network":  {"network: {}\n", "network: {allow: [\"new.example.com:443\"]}\n"},
		"flow file":      {"{version: 1}\n", "{network: {allow: [\"new.example.com:443\"]}, version: 1}\n"},
		"empty list":     {"network:\n  allow: []   # such as\n", "network:\n  allow: [\"new.example.com:443\"]   # such as\n"},
		"flow list":      {"network: {allow: [a.example.com], deny: []}\n", "network: {allow: [a.example.com, \"new.example.com:443\"], deny: []}\n"},
		"trailing comma": {"network: {allow: [a.example.com,]}\n", "network: {allow: [a.example.com, \"new.example.com:443\"]}\n"},
		"flow over lines": {
			"network:\n  allow: [\n    a.example.com, # a\n    b.example.com,\n  ]\n",
			"network:\n  allow: [\n    a.example.com, # a\n    b.example.com,\n   \"new.example.com:443\"]\n",
		},
		"wide runes": {"network: {allow: [\"bücher.example.com\"]}\n", "network: {allow: [\"bücher.example.com\", \"new.example.com:443\"]}\n"},
		"block": {
			"network:\n  allow:\n    - a.example.com # why\n\n  # deny\n  deny: []\n",
			"network:\n  allow:\n    - a.example.com # why\n    - \"new.example.com:443\"\n\n  # deny\n  deny: []\n",
		},
		"block at key": {
			"network:\n  allow:\n  - a.example.com\nversion: 1\n",
			"network:\n  allow:\n  - a.example.com\n  - \"new.example.com:443\"\nversion: 1\n",
		},
		"block no end": {"network:\n  allow:\n    - a.example.com", "network:\n  allow:\n    - a.example.com\n    - \"new.example.com:443\"\n"},
		"long rule": {
			"network:\n  allow:\n    - host: a.example.com\n      methods:\n        - GET\n  deny: []\n",
			"network:\n  allow:\n    - host: a.example.com\n      methods:\n        - GET\n    - \"new.example.com:443\"\n  deny: []\n",
		},
		"long flow rule": {
			"network:\n  allow:\n    - {host: a.example.com,\n       methods: [GET]\n      }\n",
			"network:\n  allow:\n    - {host: a.example.com,\n       methods: [GET]\n      }\n    - \"new.example.com:443\"\n",
		},
		"crlf": {
			"version: 1\r\nnetwork:\r\n  allow:\r\n    - a.example.com\r\n  deny: []\r\n",
			"version: 1\r\nnetwork:\r\n  allow:\r\n    - a.example.com\r\n    - \"new.example.com:443\"\r\n  deny: []\r\n",
		},
		"crlf flow":     {"network: {allow: [a.example.com]}\r\n", "network: {allow: [a.example.com, \"new.example.com:443\"]}\r\n"},
		"there already": {"network: {allow: [\"new.example.com:443\"]}\n", "network: {allow: [\"new.example.com:443\"]}\n"},
		"the template":  {string(InitTemplate()), strings.Replace(string(InitTemplate()), "allow: []", "allow: [\"new.example.com:443\"]", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := AppendAllow([]byte(tc.in), []string{rule})
			if err != nil || string(got) != tc.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, tc.want)
			}
		})
	}
}

func TestAppendAllowRefuses(t *testing.T) {
	for text, rule := range map[string]string{
		"network: {alow: []}\n": "a.example.com",
		"version: 1\n":          "*.com",
		"version: 1 \n":         "a.example.com\"]\nname: x",
		"network: ~\n":          "a.example.com",
		"network: {allow: a}\n": "a.example.com",
		"network: {allow: ~}\n": "a.example.com",
		"version: 1\n...\n":     "a.example.com",
		"network:\n  allow:\n    - \"b.example\n  .c\"\n": "a.example.com",
	} {
		if out, err := AppendAllow([]byte(text), []string{rule}); err == nil {
			t.Errorf("%q: %s", text, out)
		}
	}
}

// TestAppendAllowAddsAndNothingElse: whatever the form of the file, the result is the old text with
// something put in at one place, and says what the old one said and the new rules.
func TestAppendAllowAddsAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := drawFile(t)
		rules := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
			"new.example.com", "*.new.example.com:443", "git.example.com:22/tcp", "bücher.example.com", "140.82.112.0/20:22/tcp",
		}), 1, 3, rapid.ID).Draw(t, "rules")
		var old, got File
		rep := newReport()
		decode(rep, FileName, []byte(src), &old)
		out, err := AppendAllow([]byte(src), rules)
		if err != nil || rep.err() != nil {
			t.Fatalf("%v, %v in\n%s", err, rep.err(), src)
		}
		decode(rep, FileName, out, &got)
		var want []string
		for _, r := range old.Network.Allow {
			want = append(want, r.String())
		}
		for _, rule := range rules {
			want = append(want, Rule{Host: rule}.String())
		}
		for i, r := range got.Network.Allow {
			if len(got.Network.Allow) != len(want) || r.String() != want[i] {
				t.Fatalf("rules %v, want %v", got.Network.Allow, want)
			}
		}
		head := 0
		for head < len(src) && src[head] == out[head] {
			head++
		}
		if !strings.HasSuffix(string(out), src[head:]) || len(out) <= len(src) {
			t.Fatalf("more than an addition:\n%s\nto\n%s", out, src)
		}
		if again, err := AppendAllow(out, rules); err != nil || string(again) != string(out) {
			t.Fatalf("again: %v\n%s", err, again)
		}
	})
}

func drawFile(t *rapid.T) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	comment := func() string { return pick("comment", "", " # why", " # a: [b, c]") }
	pad := pick("pad", "  ", "    ")
	allow := pick("allow",
		"", pad+"allow:"+comment()+"\n", pad+"allow: []"+comment()+"\n", pad+"allow: [a.example.com, 'b.example.com']"+comment()+"\n",
		pad+"allow:\n"+pad+"- a.example.com"+comment()+"\n"+pad+"- 'b.example.com'"+comment()+"\n",
		pad+"allow:\n"+pad+"  # first\n"+pad+"  - a.example.com\n"+pad+"  - {host: b.example.com, methods: [GET]}"+comment()+"\n\n",
		pad+"allow:\n"+pad+"  - host: b.example.com"+comment()+"\n"+pad+"    paths: [\"/a/**\"]\n"+pad+"  # last\n",
	)
	before := pick("before", "", pad+"presets: [npm]"+comment()+"\n", pad+"# presets\n")
	after := pick("after", "", pad+"deny: [c.example.com]\n", "\n"+pad+"# no more\n")
	text := pick("head", "", "version: 1\n", "# sbx\n\n") + "network:" + comment() + "\n" + before + allow + after
	text += pick("tail", "", "name: shop\n", "env: {A: é}\n# end\n")
	if rapid.Bool().Draw(t, "cut") {
		text = strings.TrimSuffix(text, "\n")
	}
	if rapid.Bool().Draw(t, "crlf") {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return text
}
