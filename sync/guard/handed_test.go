package guard

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func nothing(string) bool { return false }

func newHanded(t *testing.T) *Handed {
	t.Helper()
	h, err := NewHanded()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHanded(t *testing.T) {
	h := newHanded(t)
	for path, want := range map[string]string{
		"Makefile": whyBuild, "sub/GNUmakefile": whyBuild, "MAKEFILE": whyBuild, "makefile.": whyBuild, "a/rules.mk": whyBuild, "Justfile": whyBuild,
		"Taskfile.yml": whyBuild, "Taskfile.dist.yaml": whyBuild, "CMakeLists.txt": whyBuild, "meson.build": whyBuild, "build.gradle.kts": whyBuild,
		"settings.gradle": whyBuild, "gradle/wrapper/gradle-wrapper.jar": whyBuild, "pom.xml": whyBuild, ".mvn/extensions.xml": whyBuild,
		"package.json": whyBuild, "packages/a/package.json": whyBuild, "pac\u212aage.json": whyBuild, "vite.config.mts": whyBuild, ".eslintrc.cjs": whyBuild,
		"pyproject.toml": whyBuild, "setup.py": whyBuild, "setup.cfg": whyBuild, "tests/conftest.py": whyBuild, "noxfile.py": whyBuild, "tox.ini": whyBuild,
		"Rakefile": whyBuild, "Gemfile": whyBuild, "build.rs": whyBuild, "Cargo.toml": whyBuild, "Dockerfile": whyBuild, "Dockerfile.dev": whyBuild,
		"api.Dockerfile": whyBuild, "compose.yaml": whyBuild, "docker-compose.override.yml": whyBuild, "flake.nix": whyBuild,
		".github/workflows/ci.yml": whyCI, ".GitHub/Workflows/deep/x": whyCI, ".gitlab-ci.yml": whyCI, ".circleci/config.yml": whyCI, "Jenkinsfile": whyCI,
		".gitmodules": whyGit, "sub/.gitattributes": whyGit, ".git/info/attributes": whyGit, ".git/modules/a/b/info/attributes": whyGit, ".lfsconfig": whyGit,
		".git/rebase-merge/git-rebase-todo": whyGit,
		".venv/pyvenv.cfg":                  whyPython, ".venv/bin/python3.12": whyPython, "env/bin/activate.fish": whyPython,
		"v/lib/python3/site-packages/x.pth": whyPython,
		"CLAUDE.md":                         whyAgent, ".claude/commands/x.md": whyAgent, ".python-version": whyVersion,
		"main.go": "", "go.mod": "", "src/makefile.go": "", "build/out": "", "bin/tool": "", "docs/package.json.md": "", ".github/ISSUE_TEMPLATE.md": "",
		".git/index": "", ".git/HEAD": "", ".git/COMMIT_EDITMSG": "", ".gitignore": "", "README.md": "", "config": "", "HEAD": "",
		"node_modules/a/package.json": "", "node_modules/a/Makefile": "", "node_modules/.git/info/attributes": whyGit,
	} {
		if got := h.Why(Changed{Path: path}, nothing); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{"run.sh": whyExecutable, "Makefile": whyBuild, "node_modules/.bin/x": ""} {
		if got := h.Why(Changed{Path: path, Executable: true}, nothing); got != want {
			t.Errorf("executable %q: %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{".github": whyCI, ".venv/bin": whyPython, "src": "", "Makefile": whyBuild} {
		if got := h.Why(Changed{Path: path, Link: true}, nothing); got != want {
			t.Errorf("link %q: %q, want %q", path, got, want)
		}
	}
}

// TestW91_HandedRepository: by what stands beside it, since nobody makes all of it at once.
func TestW91_HandedRepository(t *testing.T) {
	h := newHanded(t)
	for _, test := range []struct {
		stands, is, isNot string
	}{
		{"vendor/x/HEAD vendor/x/config", "vendor/x/config vendor/x/HEAD vendor/x/config.worktree vendor/x/CONFIG", "vendor/x/objects vendor/config vendor/x"},
		{"HEAD config", "HEAD config", "x/config"},
		{"w/HEAD w/commondir", "w/commondir w/HEAD", "w/x"},
		{"w/config w/objects", "", "w/config"},
		{"node_modules/x/HEAD node_modules/x/config", "node_modules/x/config", ""},
		// git's own: its configuration is protected.
		{".git/HEAD .git/config", "", ".git/HEAD .git/config"},
		{".git/worktrees/w/HEAD .git/worktrees/w/commondir", "", ".git/worktrees/w/HEAD"},
		{".git/modules/a/HEAD .git/modules/a/config", "", ".git/modules/a/HEAD"},
		{".git/x/HEAD .git/x/config", ".git/x/config", ""},
	} {
		stands := func(path string) bool { return slices.Contains(strings.Fields(test.stands), path) }
		for _, path := range strings.Fields(test.is) {
			if got := h.Why(Changed{Path: path}, stands); got != whyRepository {
				t.Errorf("%q beside %q: %q", path, test.stands, got)
			}
		}
		for _, path := range strings.Fields(test.isNot) {
			if got := h.Why(Changed{Path: path}, stands); got != "" {
				t.Errorf("%q beside %q: %q", path, test.stands, got)
			}
		}
	}
}

// TestHandedIsNotProtected: the guest may write all of it, and each pattern is looked for.
func TestHandedIsNotProtected(t *testing.T) {
	protected, h, lists := builtin(t), newHanded(t), handed()
	if len(lists) != len(h.kinds) {
		t.Errorf("%d lists of %d are looked at", len(h.kinds), len(lists))
	}
	for _, p := range slices.Concat(slices.Collect(maps.Values(lists))...) {
		path := strings.NewReplacer("**", "a", "*", "a").Replace(p)
		if protected.Protected(strings.Split(path, "/")) {
			t.Errorf("%q is protected as well", p)
		}
		if h.Why(Changed{Path: path}, nothing) == "" {
			t.Errorf("%q is not found", p)
		}
	}
}
