package configs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

func value(c *Config, key string) Value {
	for _, v := range c.Values() {
		if v.Key == key {
			return v
		}
	}
	return Value{}
}

// TestPrecedence takes the layers away one after the other.
func TestPrecedence(t *testing.T) {
	w := newWorld(t, "resources: {memory: 3GiB}\n")
	w.user("resources:\n  memory: 2GiB\n")
	w.opts.Env = []string{"SBX_MEMORY=5GiB", "PATH=/bin"}
	w.opts.Flags = map[string]string{"memory": "6GiB"}
	for _, step := range []struct {
		remove       func()
		want         machine.Bytes
		source, site string
	}{
		{func() {}, 6, "flag", "--memory"},
		{func() { w.opts.Flags = nil }, 5, "env", "$SBX_MEMORY"},
		{func() { w.opts.Env = []string{"SBX_MEMORY="} }, 3, "project", w.file() + ":1:21"},
		{func() { w.write(w.file(), "") }, 2, "user", filepath.Join(w.opts.ConfigDir, UserFileName) + ":2:11"},
		{func() { w.user("") }, 4, "default", ""},
	} {
		step.remove()
		c := w.load()
		v := value(c, "resources.memory")
		if c.Resources.Memory != step.want*machine.GiB || v.Source != step.source || v.At != step.site {
			t.Errorf("%s: %d bytes, %+v", step.source, c.Resources.Memory, v)
		}
	}
}

func TestEverySettingReachesTheConfig(t *testing.T) {
	w := newWorld(t, "")
	w.opts.Env = []string{
		"SBX_NAME=n1", "SBX_AGENT=shell", "SBX_CPUS=2", "SBX_MEMORY=1GiB", "SBX_DISK=9GiB", "SBX_BASE=debian-13",
		"SBX_MIRROR=https://mirror.example/debian", "SBX_MODE=mount", "SBX_PATH=/work", "SBX_NETWORK=allow", "SBX_DOCKER=false", "SBX_ASK=45s",
	}
	c := w.load()
	s := c.Spec()
	if s.Name != "n1" || c.Agent.Name != "shell" || s.Resources != (machine.Resources{CPUs: 2, Memory: machine.GiB, Disk: 9 * machine.GiB}) ||
		c.Image.Mirror != "https://mirror.example/debian" || s.Workspace.Target != "/work" || s.Network.Default != "allow" ||
		s.Network.Ask != 45*time.Second || s.Docker {
		t.Errorf("config %+v", c)
	}
	if len(c.Widening()) != 0 {
		t.Errorf("the user's own variables need consent: %v", c.Widening())
	}
	for _, s := range Settings() {
		if value(c, s.Key).Source != "env" {
			t.Errorf("%s is not from the environment: %+v", s.Key, value(c, s.Key))
		}
	}
}

func TestBadFlagsAndVariablesAreNamed(t *testing.T) {
	w := newWorld(t, "")
	w.opts.Env = []string{"SBX_CPUS=lots", "SBX_DOCKER=yes", "SBX_MEMROY=1GiB", "SBX_HOME=/x", "SBX_ACCEL=tcg"}
	w.opts.Flags = map[string]string{"disk": "20"}
	text := w.problems().Error()
	for _, want := range []string{`$SBX_CPUS: resources.cpus: "lots"`, `$SBX_DOCKER`, `--disk: resources.disk: size "20"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no word of %s in:\n%s", want, text)
		}
	}
	w.opts.Env, w.opts.Flags = w.opts.Env[2:], nil
	if got := w.load().Warnings; !slices.Equal(got, []string{`unknown variable SBX_MEMROY, did you mean "SBX_MEMORY"?`}) {
		t.Errorf("warnings %q", got)
	}
}

// TestUsersDenyStands: what the user's file closes, no project file opens.
func TestUsersDenyStands(t *testing.T) {
	w := newWorld(t, "network: {presets: [github], allow: [gist.github.com, a.example.com]}\n")
	w.user("network:\n  presets: [npm]\n  allow: [b.example.com]\n  deny: [\"**.github.com\"]\n")
	c := w.load()
	policy, _, err := netfilter.Compile(c.Network)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"gist.github.com": false, "github.com": false, "api.github.com": false, "raw.githubusercontent.com": true,
		"a.example.com": true, "b.example.com": true, "www.npmjs.org": true, "c.example.com": false,
	} {
		if v := policy.Decide(netfilter.Request{Name: name, Port: 443}); v.Allow != want {
			t.Errorf("%s: %+v", name, v)
		}
	}
	v := policy.Decide(netfilter.Request{Name: "gist.github.com", Port: 443})
	if want := (netfilter.Origin{Source: "user", File: filepath.Join(w.opts.ConfigDir, UserFileName), Line: 4, Column: 10}); v.Rule.Origin != want {
		t.Errorf("origin %+v, want %+v", v.Rule.Origin, want)
	}
	if !slices.ContainsFunc(c.Warnings, func(s string) bool {
		return strings.Contains(s, "gist.github.com") && strings.Contains(s, "has no effect")
	}) {
		t.Errorf("warnings %q", c.Warnings)
	}
}

func TestUserFileIsStrict(t *testing.T) {
	w := newWorld(t, "")
	w.user("ports: [\"80\"]\nresources: {memroy: 1GiB}\n")
	text := w.problems().Error()
	for _, want := range []string{`config.yaml:1:1: unknown key "ports"`, `did you mean "memory"?`} {
		if !strings.Contains(text, want) {
			t.Errorf("no word of %s in:\n%s", want, text)
		}
	}
}

// TestAllFaultsAtOnce: one run shows everything, in order, with the lines.
func TestAllFaultsAtOnce(t *testing.T) {
	w := newWorld(t, `version: 1
naem: x
resources: {cpus: many, memory: 4}
network:
  allow: ["*.com", 10.0.0.1]
  presets: [nmp]
ports: ["99999"]
`)
	var at []string
	for _, p := range w.problems() {
		at = append(at, strings.TrimPrefix(p.String(), w.file()))
	}
	want := []string{":2:1", ":3:19", ":3:33", ":5:11", ":5:20", ":6:13", ":7:9"}
	if !slices.Equal(at, want) {
		t.Errorf("problems at %v, want %v\n%s", at, want, w.problems())
	}
	if got, want := w.problems()[0].Excerpt, "    2 | naem: x\n      | ^"; got != want {
		t.Errorf("excerpt\n%s\nwant\n%s", got, want)
	}
}

func TestManyFaultsAreCut(t *testing.T) {
	w := newWorld(t, "env: {"+strings.Repeat("\"?\": x, \"!\": y, ", 200)+"}\n")
	if lines := strings.Count(w.problems().Error(), "\n"); lines > 4*maxProblems {
		t.Errorf("%d lines about one file", lines)
	}
}

func TestOversizedFileIsRefusedFirst(t *testing.T) {
	w := newWorld(t, "env: {A: "+strings.Repeat("x", maxFile)+"}\n")
	if ps := w.problems(); len(ps) != 1 || !strings.Contains(ps[0].Text, "larger than 1048576 bytes") {
		t.Errorf("%v", ps)
	}
	w = newWorld(t, strings.Repeat("- a\n", maxTokens))
	if ps := w.problems(); len(ps) != 1 || !strings.Contains(ps[0].Text, "more than 20000 parts") {
		t.Errorf("%v", ps)
	}
}

func TestSpecOfAFullFile(t *testing.T) {
	w := newWorld(t, `version: 1
name: shop
agent: claude
resources: {cpus: 2, memory: 2GiB, disk: 30GiB}
image:
  base: debian-13
  packages: [postgresql-client]
  run: ["npm install -g typescript"]
workspace:
  path: /work
  mounts: [{source: ../design, target: /design, readonly: true}]
  protect: ["deploy/**"]
network:
  default: deny
  presets: [npm]
  allow: ["api.example.com"]
ports: ["3000", "127.0.0.1:8080:80", "[::1]:0:90", "8081:81"]
env: {NODE_ENV: development, no: "1"}
docker: {enabled: false}
`)
	design := filepath.Join(filepath.Dir(w.opts.Dir), "design")
	if err := os.Mkdir(design, 0o755); err != nil {
		t.Fatal(err)
	}
	c := w.load()
	got := c.Spec()
	got.Network = netfilter.Spec{}
	want := machine.Spec{
		Version: 1, Name: "shop", Project: w.opts.Dir, Arch: "amd64",
		Resources: machine.Resources{CPUs: 2, Memory: 2 * machine.GiB, Disk: 30 * machine.GiB},
		Workspace: machine.Workspace{Mode: "mount", Target: "/work", Protect: []string{"deploy/**"},
			Mounts: []machine.Mount{{Source: design, Target: "/design", ReadOnly: true}}},
		Ports: []machine.Port{{Host: "127.0.0.1", Port: 3000, Guest: 3000}, {Host: "127.0.0.1", Port: 8080, Guest: 80},
			{Host: "::1", Port: 0, Guest: 90}, {Host: "127.0.0.1", Port: 8081, Guest: 81}},
		Env:  map[string]string{"NODE_ENV": "development", "no": "1", "IS_SANDBOX": "1"},
		User: machine.User{Name: "agent", UID: 1234, GID: 99},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	image := ImageSpec{Base: "debian-13", Packages: []string{"postgresql-client"},
		Agent: []string{"npm install -g @anthropic-ai/claude-code"}, Run: []string{"npm install -g typescript"}}
	if diff := cmp.Diff(image, c.Image); diff != "" {
		t.Error(diff)
	}
	policy, _, err := netfilter.Compile(c.Network)
	if err != nil || !policy.Decide(netfilter.Request{Name: "api.anthropic.com", Port: 443}).Allow {
		t.Errorf("the agent's host is not allowed, %v", err)
	}
	if text, err := json.Marshal(c.Values()); err != nil || !strings.Contains(string(text), `{"key":"name","value":"shop","source":"project","at":"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestRootsGuestUserIsNotRoot(t *testing.T) {
	w := newWorld(t, "")
	w.opts.Host.UID, w.opts.Host.GID = 0, 0
	if u := w.load().Spec().User; u.UID != 1000 || u.GID != 1000 {
		t.Errorf("%+v", u)
	}
}

func TestDefaultsFitSmallHosts(t *testing.T) {
	for _, tc := range []struct {
		cpus, wantCPUs int
		memory, want   machine.Bytes
	}{
		{2, 2, 8 * machine.GiB, 2 * machine.GiB}, {16, 4, 64 * machine.GiB, 4 * machine.GiB},
		{1, 1, machine.GiB, minMemory}, {0, 1, 0, 4 * machine.GiB}, {4, 4, 8*machine.GiB - 5*machine.MiB, 2046 * machine.MiB},
	} {
		w := newWorld(t, "")
		w.opts.Host.CPUs, w.opts.Host.Memory = tc.cpus, tc.memory
		if r := w.load().Resources; r.CPUs != tc.wantCPUs || r.Memory != tc.want {
			t.Errorf("%+v: %+v", tc, r)
		}
	}
	if h := CurrentHost(); h.CPUs < 1 || h.Memory < 64*machine.MiB || h.Arch == "" {
		t.Errorf("this host: %+v", h)
	}
}

func TestSlug(t *testing.T) {
	for in, want := range map[string]string{
		"shop": "shop", "My Shop!": "my-shop", "--a--b--": "a-b", "": "sandbox", "日本": "sandbox", "a.b_c": "a-b-c",
		strings.Repeat("ab-", 30): strings.Repeat("ab-", 13)[:38], "/": "sandbox", "été": "t",
	} {
		if got := Slug(in); got != want || !matches(namePattern, got) {
			t.Errorf("Slug(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCheckTarget(t *testing.T) {
	for path, ok := range map[string]bool{
		"/work": true, "/home/me/project": true, "/root/x": true, "/tmp/x": true, "/opt/x": true, "/var/www": true, "/a b,c": true, "/usrlocal": true,
		"": false, "/": false, "work": false, "/usr": false, "/usr/src/x": false, "/etc/x": false, "/proc": false, "/bin": false, "/home": false,
		"/home/agent": false, "/var": false, "/var/lib/docker/x": false, "/run/x": false, "/sbx": false, "/a/": false, "/a//b": false, "/a/../etc": false,
		"/a\nb": false, "/" + strings.Repeat("a", 5000): false, "/var/run/docker.sock": false, "/tmp": false,
	} {
		if err := CheckTarget(path); (err == nil) != ok {
			t.Errorf("CheckTarget(%q) = %v", cut(path), err)
		}
	}
}

func TestProjectThatHoldsHomeWarns(t *testing.T) {
	w := newWorld(t, "")
	w.opts.Home = filepath.Join(w.opts.Dir, "me")
	if err := os.Mkdir(w.opts.Home, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := w.load().Warnings; len(got) != 1 || !strings.Contains(got[0], "home folder") {
		t.Errorf("warnings %q", got)
	}
}

func TestEveryAgentLoads(t *testing.T) {
	agents, err := Agents()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		w := newWorld(t, "agent: "+a.Name+"\n")
		c := w.load()
		if len(c.Agent.Command) == 0 || a.Description == "" || len(c.Widening()) != len(a.Secrets) || len(c.Warnings) != 0 {
			t.Errorf("agent %s: %+v, warnings %q, widening %v", a.Name, c.Agent, c.Warnings, c.Widening())
		}
	}
}

// TestNothingShownObeysATerminal: YAML's escapes put control characters into
// values that the file itself does not hold.
func TestNothingShownObeysATerminal(t *testing.T) {
	w := newWorld(t, `env: {A: "\e[2J\nB: c", B: "plain ü"}`+"\n")
	c := w.load()
	if c.Env["A"] != "\x1b[2J\nB: c" || value(c, "env.A").Value != `"\x1b[2J\nB: c"` || value(c, "env.B").Value != "plain ü" {
		t.Errorf("env %q, shown %q and %q", c.Env["A"], value(c, "env.A").Value, value(c, "env.B").Value)
	}
	w = newWorld(t, `name: "\e[2J"`+"\n"+`network: {presets: ["\e]0;x\a"], allow: ["\e[1m"], default: "\e"}`+"\n"+`"\e": 1`+"\n")
	checkReport(t, w.problems())
}

// TestPasswordsOfURLsAreNotShown: neither in the line that is shown nor in what is said of it, and the mark stays in place.
func TestPasswordsOfURLsAreNotShown(t *testing.T) {
	for name, file := range map[string]string{
		"another key":    "network: {proxy: \"http://me:hunter2@proxy.test:3128\", allwo: []}\n",
		"no URL":         "network: {proxy: \"http://me:hunt/er2@hunter2 @proxy.test:x\"}\n",
		"not closed":     "network: {proxy: \"http://me:hunter2@proxy.test:3128}\n",
		"wrong type":     "network:\n  proxy: [\"http://me:hunter2@proxy.test\"]\n",
		"in a wrong key": "resources: {cpus: \"socks5://hunter2:hünter2@proxy.test\"}\n",
		"as a key":       "\"http://me:hunter2@proxy.test\": 1\n",
	} {
		w := newWorld(t, "")
		w.user(file)
		if text := w.problems().Error(); strings.Contains(text, "unter2") || strings.Contains(text, "unt/er2") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	line := `a: [http://me:hünter@proxy.test, x]`
	want := "    1 | a: [http://*********@proxy.test, x]\n      | " + strings.Repeat(" ", 32) + "^"
	if got := excerpt([]byte(line), Position{Line: 1, Column: 33}); got != want {
		t.Errorf("excerpt\n%s\nwant\n%s", got, want)
	}
}
