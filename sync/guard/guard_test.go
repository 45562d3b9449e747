package guard

import (
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func builtin(t *testing.T) *Matcher {
	t.Helper()
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestProtected(t *testing.T) {
	m := builtin(t)
	for path, want := range map[string]bool{
		"sbx.yaml": true, "SBX.YAML": true, "sub/sbx.yaml": false, "sbx.yaml.d": false,
		".git/hooks": true, ".git/hooks/post-checkout": true, "vendor/x/.git/hooks/a": true,
		".GIT/HOOKS/x": true, ".Git/hooKs": true, "git~1/hooks": true, "GIT~1/hooks": true,
		".git /hooks": true, ".git./hooks": true, ".git:stream/hooks": true, ".g\u200cit/hooks": true,
		".v\u017fcode/tasks.json": true, ".hus\u212ay": true, ".VSCODE": true,
		".git": false, ".git/objects/ab": false, "hooks": false, ".git/config": true,
		"vendor/.git/config": true, ".git/modules/a/hooks/x": true, ".envrc": true, "a/b/.envrc": true,
		"src/main.go": false, "...": false,
		".git/modules/vendor/lib/hooks/x": true, ".git/modules/a/modules/b/config": true, ".git/modules/a/HEAD": false,
		".git/commondir": true, "x/.git/worktrees/w/commondir": true, ".git/modules/a/b/c/commondir": true,
		".claude/settings.other.json": true, ".claude/agents/a.md": false,
		"node_modules/a/.vscode/x": false, "x/node_modules/.envrc": false, "node_modules/a/.git/hooks": true,
		".git\u00ad/hooks": true, ".g\u2060it/hooks": true, ".vscode\ufe0f/x": true, ".\uff47it/hooks": true, ".git/con\ufb01g": true,
		"git~2/hooks": true, "vscode~1/tasks.json": true, "VS1A2F~1/tasks.json": true, "SBX~1.YAM": true, "settin~1.jso": false, ".claude/SETTIN~1.JSO": true,
		"mcp~1.jso": true, "vscode~": false, "a~1": false, "notes~1.txt": false,
		`.\.GIT\foobar`: true, `.git\hooks\x`: true, `a\.vscode\x`: true, `a\b`: false, `.gitx\y`: false,
		".git/worktrees/w/modules/a/hooks/x": true, ".git/worktrees/w/modules/a/b/config": true, ".git/worktrees/w/modules/a/HEAD": false,
		".git/remotes/o": true, ".git/remotes": false, ".git/branches/o": true, ".git/refs/remotes/origin/HEAD": false,
		".git/config.worktree.lock": true, ".git/config.lock": false,
		"node_modules./.vscode/x": true, "node_modules:a/.envrc": true, "node_module\u017f/.envrc": true,
		".vscode/node_modules/a": true, "Node_Modules/a/.idea": false,
	} {
		if got := m.Protected(strings.Split(path, "/")); got != want {
			t.Errorf("%q: protected %v, want %v", path, got, want)
		}
	}
	if m.Protected(nil) {
		t.Error("the root itself is protected")
	}
}

// What tools obey merely because it is there.
func TestBuiltinCoversItsKind(t *testing.T) {
	m := builtin(t)
	for _, path := range []string{
		"shop.code-workspace", ".zed/settings.json", ".fleet/run.json", ".helix/languages.toml", ".nvim.lua", ".exrc", ".vim/coc-settings.json", ".dir-locals.el",
		"mise.toml", ".mise/config.toml", ".mise.local.toml", "mise.dev.toml", ".config/mise/config.toml", ".direnv/x", "lefthook.yml", "lefthook-local.yaml",
		".githooks/pre-commit", ".gitconfig", ".hg/hgrc", ".gdbinit", ".lldbinit", ".Rprofile", ".irbrc", ".pryrc", ".pdbrc", ".pnpmfile.cjs", ".yarn/releases/y.cjs",
		".cargo/config.toml", ".cargo/config", ".opencode/x", "opencode.json", ".windsurf/mcp.json",
	} {
		if !m.Protected(strings.Split("sub/"+path, "/")) {
			t.Errorf("%s is not protected", path)
		}
	}
	for _, path := range []string{
		"CLAUDE.md", "AGENTS.md", "Makefile", "package.json", ".github/workflows/ci.yml", ".gitignore", ".gitattributes",
		".gitmodules", ".editorconfig", "Cargo.toml",
		".python-version", ".config/x", "tsconfig.json", "pnpm-workspace.yaml", ".prettierrc", ".yarn/cache/x.zip", "config.toml",
	} {
		if m.Protected([]string{path}) {
			t.Errorf("%s is protected: guests edit it", path)
		}
	}
}

func TestLeads(t *testing.T) {
	m := builtin(t)
	rests := m.Leads([]string{"sub", ".GIT"})
	if !slices.ContainsFunc(rests, func(r []string) bool { return slices.Equal(r, []string{"hooks"}) }) {
		t.Errorf("sub/.GIT leads to %q, hooks is missing", rests)
	}
	if !slices.ContainsFunc(rests, func(r []string) bool { return slices.Equal(r, []string{"config"}) }) {
		t.Error("sub/.git/config is not led to")
	}
	if rests := m.Leads([]string{"src"}); len(rests) != 0 {
		t.Errorf("src leads to %q", rests)
	}
	if !Match("hooks", "HooKs") || Match("hooks", "objects") {
		t.Error("Match does not fold")
	}
}

func TestOwnPatterns(t *testing.T) {
	m, err := New([]string{"/deploy/**", "*.pem", "**/caf\u00e9/**"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"deploy": true, "deploy/a/b": true, "x/deploy": false, "x/KEY.PEM": true, "x/Cafe\u0301/y": true, "cafe": false} {
		if got := m.Protected(strings.Split(path, "/")); got != want {
			t.Errorf("%q: protected %v, want %v", path, got, want)
		}
	}
	for _, bad := range []string{"", "/", "a/../b", "a//b", "a/**/b/**/c/**/d", "[", ".", "**", "a**", ":", "\u200c"} {
		if _, err := New([]string{bad}); err == nil {
			t.Errorf("pattern %q was taken", bad)
		}
	}
}

func FuzzProtectedFolds(f *testing.F) {
	f.Add(".git/hooks")
	f.Add(".v\u017fcode/x")
	m, err := New(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		parts := strings.Split(path, "/")
		if !m.Protected(parts) {
			return
		}
		for _, other := range []string{strings.ToUpper(path), path + "/below"} {
			if strings.EqualFold(other, path) || strings.HasSuffix(other, "/below") {
				if !m.Protected(strings.Split(other, "/")) {
					t.Errorf("%q is protected, %q is not", path, other)
				}
			}
		}
	})
}

// What is decided without a look at the whole name is decided as by it.
func TestQuickAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[aAb.~:ß\\-]{0,6}`).Draw(t, "name")
		component := rapid.StringMatching(`[ab.*?-]{1,4}|\[ab\]b?|a\\[*?\]a]`).Draw(t, "component")
		if ok, err := path.Match(component, name); err == nil && ok && !sameEnds(component, name) {
			t.Errorf("%q matches %q", component, name)
		}
		if isFolded(name) && fold(name+":x") != name {
			t.Errorf("%q folds to %q", name, fold(name+":x"))
		}
	})
}
