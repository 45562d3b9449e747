package configs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWidening: what the project asks for beyond the defaults, and nothing else.
func TestWidening(t *testing.T) {
	w := newWorld(t, `network:
  default: allow
  presets: [npm]
  allow: ["b.example.com", "a.example.com:22/tcp"]
  deny: ["c.example.com"]
ports: ["3000", "0.0.0.0:80:80", "[::1]:81:81"]
image: {mirror: "http://mirror.example/debian"}
workspace:
  mask: ["more/**", "!.env"]
  mounts:
    - {source: ., target: /inside}
    - {source: .., target: /outside}
    - {source: link, target: /linked, readonly: true}
`)
	w.user("network: {allow: [mine.example.com]}\n")
	if err := os.Symlink(w.opts.Home, filepath.Join(w.opts.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range w.load().Widening() {
		got = append(got, x.Kind+" "+strings.ReplaceAll(x.What, filepath.Dir(w.opts.Dir), "ROOT"))
	}
	want := strings.Join([]string{
		"allow a.example.com:22/tcp", "allow b.example.com", "default every public name may be reached", "mask .env", "mirror http://mirror.example/debian",
		`mount "ROOT" on "/outside", writable`, `mount "ROOT/home" on "/linked", read only`, "port guest port 80 on 0.0.0.0 port 80",
	}, "\n")
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

// TestConsent holds for exactly what was asked, in this project, in any order.
func TestConsent(t *testing.T) {
	w := newWorld(t, "network: {allow: [a.example.com, b.example.com]}\n")
	trust := Trust{filepath.Join(t.TempDir(), "state", "trust.json")}
	ask := func(yaml string) bool {
		t.Helper()
		w.write(w.file(), yaml)
		ok, err := trust.Trusted(w.load())
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !ask("network: {presets: [npm]}\n") {
		t.Error("presets need consent")
	}
	if ask("network: {allow: [a.example.com, b.example.com]}\n") {
		t.Error("trusted before any consent")
	}
	if err := trust.Grant(w.load()); err != nil {
		t.Fatal(err)
	}
	for yaml, want := range map[string]bool{
		"network: {allow: [a.example.com, b.example.com]}\n":                                 true,
		"# moved\nenv: {A: b}\nnetwork: {allow: [b.example.com, a.example.com]}\n":           true,
		"network: {allow: [a.example.com]}\n":                                                false,
		"network: {allow: [a.example.com, b.example.com, c.example.com]}\n":                  false,
		"network: {allow: [a.example.com, \"b.example.com:22/tcp\"]}\n":                      false,
		"network: {allow: [a.example.com, b.example.com], default: allow}\n":                 false,
		"network: {allow: [a.example.com, b.example.com]}\nports: [\"0.0.0.0:3000:3000\"]\n": false,
	} {
		if got := ask(yaml); got != want {
			t.Errorf("trusted %v: %s", got, yaml)
		}
	}
	other := newWorld(t, "network: {allow: [a.example.com, b.example.com]}\n")
	if ok, err := trust.Trusted(other.load()); ok || err != nil {
		t.Errorf("another project is trusted: %v, %v", ok, err)
	}
	if err := trust.Revoke(w.opts.Dir); err != nil {
		t.Fatal(err)
	}
	if ask("network: {allow: [a.example.com, b.example.com]}\n") {
		t.Error("trusted after Revoke")
	}
}

func TestGrantsAreBoundedAndPrivate(t *testing.T) {
	w := newWorld(t, "")
	trust := Trust{filepath.Join(t.TempDir(), "trust.json")}
	for i := range maxGrants + 3 {
		w.write(w.file(), "network: {allow: [\"a.example.com:"+strings.Repeat("1", 1+i%4)+strings.Repeat(",9", i/4)+"\"]}\n")
		c := w.load()
		if err := trust.Grant(c); err != nil {
			t.Fatal(err)
		}
		if ok, err := trust.Trusted(c); !ok || err != nil {
			t.Fatalf("grant %d does not hold: %v", i, err)
		}
	}
	file, err := trust.read()
	if err != nil || len(file.Projects[w.opts.Dir]) != maxGrants {
		t.Errorf("%d grants, %v", len(file.Projects[w.opts.Dir]), err)
	}
	if info, err := os.Stat(trust.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestBrokenConsentTrustsNothing(t *testing.T) {
	w := newWorld(t, "network: {allow: [a.example.com]}\n")
	for _, text := range []string{"{", `{"version": 2}`, `{"version": 1, "projects": []}`} {
		trust := Trust{filepath.Join(t.TempDir(), "trust.json")}
		if err := os.WriteFile(trust.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if ok, err := trust.Trusted(w.load()); ok || err == nil {
			t.Errorf("%s: trusted %v, %v", text, ok, err)
		}
		if err := trust.Grant(w.load()); err == nil {
			t.Errorf("%s: overwritten", text)
		}
	}
}

// TestProjectsAgentNeedsConsent: a project that names an agent asks for the use of its keys. The user who names
// it, by flag or in a file of their own, does not ask themselves.
func TestProjectsAgentNeedsConsent(t *testing.T) {
	w := newWorld(t, "agent: codex\n")
	got := w.load().Widening()
	if len(got) != 1 || got[0].Kind != WidenSecret || got[0].What != "OPENAI_API_KEY, to api.openai.com in the header Authorization" || got[0].At.Line != 1 {
		t.Errorf("%+v", got)
	}
	w.opts.Flags = map[string]string{"agent": "codex"}
	if got := w.load().Widening(); len(got) != 0 {
		t.Errorf("by flag: %+v", got)
	}
	w.opts.Flags = nil
	w.user("agent: codex\n")
	if got := w.load().Widening(); len(got) != 0 {
		t.Errorf("the user's own agent: %+v", got)
	}
}

// TestConsentShowsALabels: a letter that looks like another is not agreed to unseen.
func TestConsentShowsALabels(t *testing.T) {
	w := newWorld(t, "network: {allow: [\"*.\u0430pi.example.com:443\"]}\nsecrets: [{name: KEY, hosts: [\u0430pi.anthropic.com]}]\n")
	var got []string
	for _, x := range w.load().Widening() {
		got = append(got, x.What)
	}
	want := []string{"*.xn--pi-6kc.example.com:443", "KEY, to xn--pi-6kc.anthropic.com in any header"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestMountsOfGuardedFolders: a folder of the project that is mounted elsewhere is a share of its own, where what
// is protected or masked by the path above would be neither.
func TestMountsOfGuardedFolders(t *testing.T) {
	for name, tc := range map[string]struct {
		mount, more string
		refused     bool
		widening    string
	}{
		"git":           {mount: "{source: .git, target: /g}", refused: true},
		"in git":        {mount: "{source: .git/modules/x, target: /g}", refused: true},
		"deep git":      {mount: "{source: sub/.git, target: /g}", refused: true},
		"a link to git": {mount: "{source: link, target: /g}", refused: true},
		"an editor's":   {mount: "{source: .vscode, target: /v}", refused: true},
		"below it":      {mount: "{source: .vscode/x, target: /v}", refused: true},
		"claude":        {mount: "{source: .claude, target: /c}", refused: true},
		"read only":     {mount: "{source: .git, target: /g, readonly: true}"},
		"own":           {mount: "{source: deploy, target: /d}", more: "protect: [\"deploy/**\"]", refused: true},
		"own deep":      {mount: "{source: sub, target: /d}", more: "protect: [sub/deep]", refused: true},
		"masked":        {mount: "{source: .aws, target: /a, readonly: true}", widening: `mask "PROJECT/.aws" on "/a", read only`},
		"half masked":   {mount: "{source: .docker, target: /a}", widening: `mask "PROJECT/.docker" on "/a", writable`},
		"own mask":      {mount: "{source: sub, target: /a}", more: "mask: [sub/x.key]", widening: `mask "PROJECT/sub" on "/a", writable`},
		"plain":         {mount: "{source: sub, target: /s}"},
		"all of it":     {mount: "{source: ., target: /s}"},
	} {
		w := newWorld(t, "workspace:\n  mounts: ["+tc.mount+"]\n  "+tc.more+"\n")
		for _, dir := range []string{".git/modules/x", "sub/.git", "sub/deep", ".vscode/x", ".claude", "deploy", ".aws", ".docker"} {
			if err := os.MkdirAll(filepath.Join(w.opts.Dir, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(".git", filepath.Join(w.opts.Dir, "link")); err != nil {
			t.Fatal(err)
		}
		if tc.refused {
			if ps := w.problems(); len(ps) != 1 || !strings.Contains(ps[0].Text, "must not write") {
				t.Errorf("%s: %v", name, ps)
			}
			continue
		}
		got := ""
		for _, x := range w.load().Widening() {
			got += x.Kind + " " + strings.ReplaceAll(x.What, w.opts.Dir, "PROJECT")
		}
		if got != tc.widening {
			t.Errorf("%s: %q, want %q", name, got, tc.widening)
		}
	}
}

// TestReviewIsNotGoneAround: in mode review the guest has no other way to the project than what is applied.
func TestReviewIsNotGoneAround(t *testing.T) {
	w := newWorld(t, "workspace: {mounts: [{source: ., target: /live}]}\n")
	w.opts.Flags = map[string]string{"mode": "review"}
	if ps := w.problems(); len(ps) != 1 || !strings.Contains(ps[0].Text, "sbx apply") {
		t.Errorf("%v", ps)
	}
	w.write(w.file(), "workspace: {mode: review, mounts: [{source: ., target: /live, readonly: true}, {source: .., target: /above}]}\n")
	if got := w.load().Widening(); len(got) != 1 || got[0].Kind != WidenMount {
		t.Errorf("%v", got)
	}
}

// TestPatternsThatNobodyCanRead are found when the file is read, not when the sandbox starts.
func TestPatternsThatNobodyCanRead(t *testing.T) {
	for _, pattern := range []string{"a**b", "x/[", "**/a/**/b/**/c/**/d"} {
		w := newWorld(t, "workspace: {protect: [\""+pattern+"\"], mask: [\"!"+pattern+"\"]}\n")
		if ps := w.problems(); len(ps) != 2 {
			t.Errorf("%s: %v", pattern, ps)
		}
	}
}
