package configs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine"
)

// world is a project folder, a home and a host of known size.
type world struct {
	t    *testing.T
	opts Options
}

func newWorld(t *testing.T, project string) *world {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, Options{
		Dir: filepath.Join(root, "My Shop!"), Home: filepath.Join(root, "home"), ConfigDir: filepath.Join(root, "config"),
		Host: Host{CPUs: 8, Memory: 32 * machine.GiB, Arch: "amd64", UID: 1234, GID: 99},
	}}
	for _, dir := range []string{w.opts.Dir, w.opts.Home, w.opts.ConfigDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if project != "" {
		w.write(w.file(), project)
	}
	return w
}

func (w *world) file() string { return filepath.Join(w.opts.Dir, FileName) }

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) user(text string) {
	w.t.Helper()
	w.write(filepath.Join(w.opts.ConfigDir, UserFileName), text)
}

func (w *world) load() *Config {
	w.t.Helper()
	c, err := Load(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) problems() Problems {
	w.t.Helper()
	_, err := Load(w.opts)
	var ps Problems
	if !errors.As(err, &ps) {
		w.t.Fatalf("Load gave %v, not Problems", err)
	}
	return ps
}

func TestWithoutAnyFile(t *testing.T) {
	w := newWorld(t, "")
	c := w.load()
	s := c.Spec()
	if s.Name != "my-shop" || s.Project != w.opts.Dir || s.Workspace.Target != w.opts.Dir || !s.Docker {
		t.Errorf("spec %+v", s)
	}
	if s.Resources != (machine.Resources{CPUs: 4, Memory: 4 * machine.GiB, Disk: 20 * machine.GiB}) {
		t.Errorf("resources %+v", s.Resources)
	}
	if s.User != (machine.User{Name: "agent", UID: 1234, GID: 99}) {
		t.Errorf("user %+v", s.User)
	}
	if s.Network.Default != "deny" || len(s.Network.Rules) != 0 || len(c.Widening()) != 0 {
		t.Errorf("network %+v, widening %v", s.Network, c.Widening())
	}
}

// TestFaults is F28 and C1–C3: each fault with its place and the way out.
func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml string
		line int
		col  int
		want string
	}{
		"unknown key":        {"version: 1\nnetwork:\n  alow: [a.example.com]\n", 3, 3, `unknown key "network.alow", did you mean "allow"?`},
		"unknown top key":    {"resource: {}\n", 1, 1, `did you mean "resources"?`},
		"duplicate":          {"name: a\nname: b\n", 2, 1, `duplicate key "name", first on line 1`},
		"nested duplicate":   {"network: {allow: [], allow: []}\n", 1, 22, `duplicate key "network.allow"`},
		"list for text":      {"name: [a]\n", 1, 7, `"name" must be text, not a list`},
		"text for list":      {"network: {allow: example.com}\n", 1, 18, `"network.allow" must be a list, not the text "example.com"`},
		"tab":                {"network:\n\tallow: []\n", 2, 1, "a tab in the indentation"},
		"bom":                {"\xef\xbb\xbfversion: 1\n", 1, 1, "byte order mark"},
		"not utf-8":          {"name: a\nenv: {A: \"\xff\"}\n", 2, 1, "is not UTF-8"},
		"control":            {"name: \"a\x1b[2J\"\n", 1, 9, "a control character"},
		"anchor":             {"env: &a {A: b}\n", 1, 6, "an anchor"},
		"alias":              {"env: {A: b}\nports: *a\n", 2, 8, "an alias"},
		"star":               {"network:\n  allow:\n    - *.example.com\n", 3, 7, "quote a text that begins with a star"},
		"merge":              {"env:\n  <<: {A: b}\n", 2, 3, "a merge key"},
		"tag":                {"name: !!str 1\n", 1, 7, "a tag"},
		"two documents":      {"version: 1\n---\nversion: 1\n", 2, 1, "second document"},
		"octal":              {"resources: {cpus: 0o4}\n", 1, 19, "plain decimal"},
		"leading zero":       {"resources: {cpus: 04}\n", 1, 19, "plain decimal"},
		"underscore":         {"resources: {cpus: 1_0}\n", 1, 19, "plain decimal"},
		"huge":               {"resources: {cpus: 99999999999999999999}\n", 1, 19, "number"},
		"zero cpus":          {"resources: {cpus: 0}\n", 1, 19, "must be a number from 1 to 256"},
		"exponent":           {"resources: {cpus: 1e1}\n", 1, 19, "must be a number"},
		"on":                 {"docker: {enabled: on}\n", 1, 19, `"docker.enabled" must be true or false, not the text "on"`},
		"yes":                {"docker: {enabled: yes}\n", 1, 19, "must be true or false"},
		"unquoted env":       {"env: {PORT: 3000}\n", 1, 13, `"env.PORT" must be text: write "3000" in quotes`},
		"boolean env":        {"env: {A: true}\n", 1, 10, `write "true" in quotes`},
		"bad env name":       {"env: {\"A-B\": x}\n", 1, 14, "is no name of a variable"},
		"no value":           {"name:\n", 1, 7, `"name" has no value`},
		"size without unit":  {"resources: {memory: \"4096\"}\n", 1, 21, "such as 4GiB"},
		"decimal size":       {"resources: {memory: 4GB}\n", 1, 21, "such as 4GiB"},
		"huge size":          {"resources: {disk: 9999999999TiB}\n", 1, 19, "is too large"},
		"small memory":       {"resources: {memory: 64MiB}\n", 1, 21, "at least 512MiB"},
		"more than the host": {"resources: {memory: 64GiB}\n", 1, 21, "more than this machine has (32GiB)"},
		"port":               {"ports: [\"70000\"]\n", 1, 9, "ports up to 65535"},
		"port name":          {"ports: [\"localhost:80:80\"]\n", 1, 9, "literal address"},
		"port number":        {"ports: [3000]\n", 1, 9, `write "3000" in quotes`},
		"port twice":         {"ports: [\"80\", \"80:81\"]\n", 1, 15, "is published twice"},
		"wide rule":          {"network:\n  allow:\n    - \"*.com\"\n", 3, 7, "public suffix"},
		"wide allow":         {"network:\n  allow: [\"**\"]\n", 2, 11, "default: allow"},
		"address rule":       {"network: {allow: [\"10.0.0.0/8\"]}\n", 1, 19, "host: rule in your own"},
		"methods":            {"network:\n  allow:\n    - {host: api.test.example, methods: [\"GE T\"]}\n", 3, 7, "must be a word"},
		"rule key":           {"network:\n  allow:\n    - hots: a.example.com\n", 3, 7, `did you mean "host"?`},
		"preset":             {"network: {presets: [nmp]}\n", 1, 21, `unknown network preset "nmp", did you mean "npm"?`},
		"default":            {"network: {default: audit}\n", 1, 20, "must be deny or allow"},
		"ask":                {"network: {ask: 1h}\n", 1, 16, `time "1h"`},
		"ask number":         {"network: {ask: 30}\n", 1, 16, `write "30" in quotes`},
		"proxy":              {"network: {proxy: environment}\n", 1, 11, `unknown key "network.proxy"`},
		"host rule":          {"network: {host: [{name: db.test, to: 127.0.0.1}]}\n", 1, 11, `unknown key "network.host"`},
		"no methods":         {"network: {allow: [{host: a.example.com, methods: []}]}\n", 1, 19, "empty list"},
		"max_upload":         {"network: {deny: [{host: a.example.com, max_upload: 1MiB}]}\n", 1, 18, "of an allow rule"},
		"raw with methods":   {"network: {allow: [{host: \"a.example.com:22/tcp\", methods: [GET]}]}\n", 1, 19, "without /tcp"},
		"secrets":            {"secrets:\n  - {name: A}\n", 2, 5, `must have 1 to 32 hosts`},
		"secret name":        {"secrets: [{name: A-B, hosts: [a.example.com]}]\n", 1, 11, "no name of a variable"},
		"secret twice":       {"secrets: [{name: A, hosts: [a.example.com]}, {name: A, hosts: [b.example.com]}]\n", 1, 46, "twice"},
		"secret host":        {"secrets: [{name: A, hosts: [\"*.com\"]}]\n", 1, 11, "public suffix"},
		"secret port":        {"secrets: [{name: A, hosts: [\"a.example.com:80\"]}]\n", 1, 11, "without port"},
		"secret header":      {"secrets: [{name: A, hosts: [a.example.com], header: \"a: b\"}]\n", 1, 11, "no name of a header"},
		"secret command":     {"secrets: [{name: A, hosts: [a.example.com], command: [rm]}]\n", 1, 45, `unknown key "secrets[0].command"`},
		"secret env":         {"secrets: [{name: A, hosts: [a.example.com], env: AWS_KEY}]\n", 1, 45, `unknown key "secrets[0].env"`},
		"mask":               {"workspace: {mask: [\"../.env\"]}\n", 1, 20, "must stay in the project"},
		"mode":               {"workspace: {mode: copy}\n", 1, 19, "must be mount, sync or review"},
		"ignore":             {"workspace: {mode: sync, ignore: [\"a\\nb\"]}\n", 1, 34, "rule"},
		"ignore of a mount":  {"workspace: {mode: mount, ignore: [out]}\n", 1, 35, "for the modes sync and review"},
		"path":               {"workspace: {path: /usr/src}\n", 1, 19, "is in /usr"},
		"relative path":      {"workspace: {path: work}\n", 1, 19, "must be absolute"},
		"dotted path":        {"workspace: {path: /w/../etc}\n", 1, 19, "plain path"},
		"mount source":       {"workspace: {mounts: [{source: ../none, target: /d}]}\n", 1, 22, "no such file"},
		"mount target":       {"workspace: {mounts: [{source: ., target: /etc/x}]}\n", 1, 22, "is in /etc"},
		"protect":            {"workspace: {protect: [\"../x\"]}\n", 1, 23, "must stay in the project"},
		"version":            {"version: 2\n", 1, 10, "version 2 is not known"},
		"name":               {"name: My Shop\n", 1, 7, `"my-shop" would do`},
		"agent":              {"agent: cluade\n", 1, 8, `did you mean "claude"?`},
		"package":            {"image: {packages: [\"a b\"]}\n", 1, 20, "no name of a Debian package"},
		"base":               {"image: {base: debian-12}\n", 1, 15, `did you mean "debian-13"?`},
		"mirror":             {"image: {mirror: \"ftp://x\"}\n", 1, 17, "http or https"},
		"scalar file":        {"hello\n", 1, 1, "the file must be a map"},
		"broken":             {"network: {allow: [a\n", 1, 0, "is no valid YAML"},
		"deep flow":          {"env: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "\n", 1, 38, "nested too deeply"},
		"deep dashes":        {strings.Repeat("- ", 100) + "a\n", 1, 65, "nested too deeply"},
		"deep indent":        {"a:\n" + strings.Repeat(" ", 500) + "b: c\n", 2, 1, "indented too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.yaml)
			p := w.problems()[0]
			if p.File != w.file() || p.Line != tc.line || tc.col != 0 && p.Column != tc.col || !strings.Contains(p.Text, tc.want) {
				t.Errorf("problem at %d:%d: %s\nwant %d:%d: %s", p.Line, p.Column, p.Text, tc.line, tc.col, tc.want)
			}
			if !strings.Contains(p.Excerpt, "^") {
				t.Errorf("no mark in the excerpt %q", p.Excerpt)
			}
		})
	}
}
