package guard

import (
	"path"
	"strings"
)

// Handed says which files a guest may change, because its work is to change them, and that the host's user's tools run or
// obey later all the same. They are named to the user, with the reason. It is immutable.
type Handed struct {
	kinds     []handedKind
	protected *Matcher
}

type handedKind struct {
	why string
	*Matcher
}

// Reasons of [Handed.Why].
const (
	whyBuild      = "build tools run it"
	whyCI         = "CI runs it"
	whyGit        = "git obeys it"
	whyRepository = "git takes its folder for a repository"
	whyPython     = "Python runs it"
	whyAgent      = "agents obey it"
	whyVersion    = "managers of versions obey it"
	whyExecutable = "executable"
)

// handed are the patterns by reason, of the form that [New] takes. None of them is protected. They do not reach into
// node_modules, where there are too many to read, but for what is in git's own folder.
func handed() map[string][]string {
	return map[string][]string{
		whyBuild: {
			"Makefile", "GNUmakefile", "*.mk", "justfile", ".justfile", "Taskfile*.yml", "Taskfile*.yaml", "CMakeLists.txt", "*.cmake", "CMakePresets.json",
			"CMakeUserPresets.json", "meson.build", "SConstruct", "wscript", "build.ninja", "*.bzl", "BUILD.bazel", "MODULE.bazel", "WORKSPACE.bazel", ".bazelrc",
			"build.gradle*", "settings.gradle*", "gradle/wrapper", "gradle.properties", "pom.xml", ".mvn", "build.xml", "*.sbt", "*.csproj", "*.fsproj",
			"Directory.Build.*", "package.json", "*.config.js", "*.config.cjs", "*.config.mjs", "*.config.ts", "*.config.cts", "*.config.mts",
			".eslintrc*", ".prettierrc*", ".babelrc*", ".mocharc*", "Gruntfile.*", "gulpfile.*", "deno.json", "deno.jsonc", "turbo.json", "bunfig.toml",
			"pyproject.toml", "setup.py", "setup.cfg", "conftest.py", "pytest.ini", "noxfile.py", "tox.ini", "tasks.py", "fabfile.py",
			"Rakefile", "*.rake", "Gemfile", "*.gemspec", ".rspec", ".bundle", "composer.json", "build.rs", "Cargo.toml", "mix.exs", "Setup.hs",
			"build.zig", "*.nix", "Dockerfile*", "*.Dockerfile", "Containerfile*", "compose*.yaml", "compose*.yml", "docker-compose*.yaml",
			"docker-compose*.yml", "docker-bake.hcl", "Vagrantfile", "Procfile", "Tiltfile", "skaffold.yaml",
		},
		whyCI: {
			".github/workflows", ".github/actions", ".gitlab-ci.yml", ".gitlab/ci", ".circleci", "Jenkinsfile*", "azure-pipelines*.yml", ".azure-pipelines",
			"bitbucket-pipelines.yml", ".travis.yml", ".drone.yml", ".woodpecker", ".woodpecker.y*ml", "appveyor.yml", ".appveyor.yml", ".buildkite",
			".forgejo/workflows", ".gitea/workflows", ".cirrus.yml", ".semaphore", "cloudbuild.yaml",
		},
		whyGit: {
			".gitmodules", ".gitattributes", ".lfsconfig", ".git/info/attributes", ".git/modules/**/info/attributes", ".git/worktrees/*/modules/**/info/attributes",
			// What a rebase that was left unfinished executes when it goes on.
			".git/rebase-merge/git-rebase-todo", ".git/worktrees/*/rebase-merge/git-rebase-todo", ".git/modules/**/rebase-merge/git-rebase-todo",
		},
		whyPython: {"pyvenv.cfg", "bin/python*", "bin/activate*", "bin/pip*", "site-packages/*.pth", "sitecustomize.py", "usercustomize.py"},
		whyAgent: {
			"CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", "GEMINI.md", ".claude/agents", ".claude/commands", ".claude/skills", ".cursorrules", ".clinerules",
			".windsurfrules", ".github/copilot-instructions.md", ".github/instructions",
		},
		whyVersion: {".python-version", ".ruby-version", ".node-version", ".java-version", ".sdkmanrc", "rust-toolchain", "rust-toolchain.toml"},
	}
}

// NewHanded compiles the patterns.
func NewHanded() (*Handed, error) {
	protected, err := New(nil)
	if err != nil {
		return nil, err
	}
	h, lists := &Handed{protected: protected}, handed()
	for _, why := range []string{whyGit, whyCI, whyBuild, whyPython, whyAgent, whyVersion} {
		m := newMatcher()
		if err := m.addBuiltin(lists[why]); err != nil {
			return nil, err
		}
		h.kinds = append(h.kinds, handedKind{why, m})
	}
	return h, nil
}

// Changed is what a guest left at a path.
type Changed struct {
	Path       string // components below the workspace's root, joined by slashes
	Executable bool   // a file that is executable, and was not or is another
	Link       bool
}

// Why says why the user should look at a change, "" if there is no reason. A link counts for what could be below it, too.
// stands tells whether something stands at a path now.
func (h *Handed) Why(c Changed, stands func(path string) bool) string {
	parts := strings.Split(c.Path, "/")
	if h.inRepository(parts, stands) {
		return whyRepository
	}
	folded, packages := foldAll(parts), packagesAt(parts)
	for _, k := range h.kinds {
		if k.covers(folded, packages) || c.Link && len(k.Leads(parts)) > 0 {
			return k.why
		}
	}
	if c.Executable && !InDependencies(parts) {
		return whyExecutable
	}
	return ""
}

// inRepository tells whether a path is what makes git take a folder for a repository, or its configuration: of one in a
// folder called .git that is protected. As git sees it, a repository has HEAD, and its configuration there or where
// commondir leads.
func (h *Handed) inRepository(parts []string, stands func(path string) bool) bool {
	dir, name := parts[:len(parts)-1], fold(parts[len(parts)-1])
	switch name {
	case "head", "config", "config.worktree", "commondir":
	default:
		return false
	}
	at := func(name string) string { return path.Join(strings.Join(dir, "/"), name) }
	if h.protected.Protected(strings.Split(at("config"), "/")) {
		return false
	}
	return stands(at("HEAD")) && (stands(at("config")) || stands(at("commondir")))
}
