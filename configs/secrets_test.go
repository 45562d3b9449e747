package configs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// TestConsentShowsAllOfARule: methods, paths, budgets and a secret's places are part of what is agreed to.
func TestConsentShowsAllOfARule(t *testing.T) {
	trust := Trust{filepath.Join(t.TempDir(), "trust.json")}
	files := [][2]string{
		{"network: {allow: [{host: a.example.com, methods: [GET, HEAD], paths: [\"/v1/**\", \"/v2\"], max_upload: 10MiB}]}\n",
			"allow a.example.com GET,HEAD /v1/** /v2 up to 10MiB"},
		{"network: {allow: [{host: a.example.com, methods: [GET], paths: [\"/v1/**\"]}]}\n",
			"allow a.example.com GET /v1/**"},
		{"network: {allow: [{host: a.example.com, methods: [GET]}]}\n",
			"allow a.example.com GET"},
		{"network: {allow: [{host: a.example.com, max_upload: 1GiB}]}\n",
			"allow a.example.com up to 1GiB"},
		{"network: {allow: [a.example.com]}\n",
			"allow a.example.com"},
		{"secrets: [{name: A, hosts: [a.example.com, b.example.com], header: X-Key}]\n",
			"secret A, to a.example.com b.example.com in the header X-Key"},
		{"secrets: [{name: A, hosts: [a.example.com]}]\n",
			"secret A, to a.example.com in any header"},
	}
	w := newWorld(t, "")
	for _, f := range files {
		text, want := f[0], f[1]
		w.write(w.file(), text)
		c := w.load()
		if asked := c.Widening(); len(asked) != 1 || asked[0].Kind+" "+asked[0].What != want {
			t.Errorf("%s asks for %v, want %s", text, asked, want)
		}
		if ok, err := trust.Trusted(c); ok || err != nil {
			t.Errorf("%s is trusted after others: %v", text, err)
		}
		if err := trust.Grant(c); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUsersSecretsHold: where the user's file binds a key to, no project takes it elsewhere.
func TestUsersSecretsHold(t *testing.T) {
	w := newWorld(t, `network: {allow: [api.example.com, evil.example.com, b.example.com]}
secrets:
  - {name: MINE, hosts: [evil.example.com]}
  - {name: OTHER, hosts: [b.example.com], header: x-api-key}
`)
	w.user(`secrets:
  - {name: MINE, hosts: [api.example.com], header: authorization, command: [pass, show, mine]}
  - {name: OTHER, env: MY_OTHER}
`)
	c := w.load()
	var got []string
	for _, s := range c.Network.Secrets {
		got = append(got, strings.Join(append([]string{s.Name, s.Header, s.Origin.Source}, s.Hosts...), " "))
	}
	if diff := cmp.Diff([]string{"MINE authorization user api.example.com", "OTHER x-api-key project b.example.com"}, got); diff != "" {
		t.Error(diff)
	}
	sources := []machine.SecretSource{{Name: "MINE", Command: []string{"pass", "show", "mine"}}, {Name: "OTHER", Env: "MY_OTHER"}}
	if diff := cmp.Diff(sources, c.Spec().Secrets); diff != "" {
		t.Error(diff)
	}
	var kinds []string
	for _, x := range c.Widening() {
		if x.Kind == WidenSecret {
			kinds = append(kinds, x.What)
		}
	}
	if diff := cmp.Diff([]string{"OTHER, to b.example.com in the header x-api-key"}, kinds); diff != "" {
		t.Error(diff)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "secret MINE: your own configuration says where it goes") {
		t.Errorf("warnings %q", c.Warnings)
	}
	if v := value(c, "secrets.OTHER"); v.Value != "from the variable MY_OTHER" || v.Source != "user" {
		t.Errorf("shown as %+v", v)
	}
}

func TestUsersSecretsThatAreRefused(t *testing.T) {
	for entry, want := range map[string]string{
		"{name: A}":                                   "needs hosts, env or command",
		"{name: A-B, env: A}":                         "no name of a variable",
		"{name: A, env: \"A B\"}":                     "env is no name",
		"{name: A, env: B, command: [c]}":             "two sources",
		"{name: A, command: []}":                      "command is empty",
		"{name: A, env: B, header: x-key}":            "a header and no hosts",
		"{name: A, command: [\"a\\0b\"]}":             "holds a NUL",
		"{name: A, env: B}, {name: A, env: C}":        "is there twice",
		"{name: A, hosts: [\"10.0.0.0/8\"]}":          "without port",
		"{name: A, hosts: [a.example.com], value: x}": "unknown key",
	} {
		w := newWorld(t, "")
		w.user("secrets: [" + entry + "]\n")
		p := w.problems()[0]
		if !strings.Contains(p.Text, want) || p.Line != 1 || p.Column < 11 {
			t.Errorf("%s: %v, want %s", entry, p, want)
		}
	}
}

func TestUsersNetwork(t *testing.T) {
	w := newWorld(t, "network: {ask: 10s}\n")
	w.user(`network:
  ask: 30s
  proxy: "http://me:hunter2@proxy.example:3128"
  host:
    - {name: "db.test:5432/tcp", to: "127.0.0.1:15432"}
    - {name: "10.20.0.0/16:22/tcp"}
`)
	c := w.load()
	n := c.Spec().Network
	if n.Ask != 10*time.Second || n.Proxy != "http://me:hunter2@proxy.example:3128" || len(n.Hosts) != 2 || len(c.Widening()) != 0 {
		t.Errorf("%+v, %v", n, c.Widening())
	}
	policy, _, err := netfilter.Compile(n)
	if err != nil {
		t.Fatal(err)
	}
	v := policy.Decide(netfilter.Request{Name: "db.test", Port: 5432})
	if !v.Allow || v.Target.Port != 15432 || v.Rule.Origin.Source != "user" || v.Rule.Origin.Line != 5 {
		t.Errorf("%+v", v)
	}
	if p := value(c, "network.proxy"); p.Value != "http://me:xxxxx@proxy.example:3128" || p.Source != "user" {
		t.Errorf("shown as %+v", p)
	}
	if h := value(c, "network.host"); h.Value != "db.test:5432/tcp to 127.0.0.1:15432" {
		t.Errorf("shown as %+v", h)
	}
	w.opts.Env = []string{"SBX_PROXY=direct"}
	if c := w.load(); c.Network.Proxy != "" || value(c, "network.proxy").Source != "env" {
		t.Errorf("proxy %q, %+v", c.Network.Proxy, value(c, "network.proxy"))
	}
	w.opts.Env = []string{"SBX_PROXY=environment"}
	if c := w.load(); c.Network.Proxy != "environment" {
		t.Errorf("proxy %q", c.Network.Proxy)
	}
}

// TestBadProxyIsNotShown: it may hold a password, whatever is wrong with it.
func TestBadProxyIsNotShown(t *testing.T) {
	for _, bad := range []string{
		"ftp://me:hunter2@p.example", "me:hunter2@p.example:1", "http://me:hunter2@", "http://me:hunter2@p.example:x", "http://me:hunter2@p.example/path",
	} {
		w := newWorld(t, "")
		w.user("network: {proxy: \"" + bad + "\"}\n")
		text := w.problems().Error()
		if strings.Contains(text, "hunter2") || !strings.Contains(text, "config.yaml:1:18: network.proxy must be") {
			t.Errorf("%s: %s", bad, text)
		}
	}
}

func TestUsersHostRulesThatAreRefused(t *testing.T) {
	for _, entry := range []string{
		"{name: db.test, to: 169.254.169.254}", "{name: db.test}", "{to: 127.0.0.1}", "{name: db.test, to: localhost}", "{name: \"**\", to: 10.0.0.0/8}",
	} {
		w := newWorld(t, "")
		w.user("network:\n  host: [" + entry + "]\n")
		if p := w.problems()[0]; p.Line != 2 || p.Column != 10 {
			t.Errorf("%s: %v", entry, p)
		}
	}
}
