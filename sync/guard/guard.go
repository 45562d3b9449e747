// Package guard says which paths of a workspace a guest may read and never change.
//
// They are what a tool on the host would execute or obey: the guest must not be
// able to leave code there for the user to run. Matching is pure: components are
// compared with case folded by Unicode's rules (a host's file system may fold, and
// `.vſcode` folds to `.vscode`, `conﬁg` to `config`), trailing dots and spaces and what follows a colon
// are dropped (other systems drop them), and whether the path exists does not matter.
//
// A git configuration is between the two: git init, clone, remote and push -u must write
// it, and it names commands for git to run. A guest may replace it as a whole, when only
// what is known to be harmless differs ([CheckConfig]).
//
// [Mask] is the other list: files whose content a guest never sees. [Handed] is a third: files that
// a guest must be able to change and that the user's tools run, which are reported and not refused.
// Bare repositories that the guest makes are among those, and what an unfinished rebase executes.
//
// Not covered: code that the user runs as such.
package guard

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Builtin is protected in every workspace. A pattern with a leading slash is tied
// to the workspace's root; others match at any depth. Those that are not git's do not
// reach into node_modules: packages bring editors' folders along, and no tool obeys them there.
func Builtin() []string {
	return slices.Concat(gitsOwn(), []string{
		"/sbx.yaml", "/sbx.yml",
		// Other tools of versions.
		".hg/hgrc", ".hg/hgrc-not-shared", ".hg/sharedpath", ".jj/repo/config.toml", ".jj/workspace-config.toml", ".sl/config",
		// What runs at a commit.
		".husky", ".githooks", ".git-hooks", ".pre-commit-config.yaml", ".pre-commit-config.yml", ".overcommit.yml",
		"lefthook.yml", "lefthook.yaml", "lefthook-local.yml", "lefthook-local.yaml", ".lefthook", ".lefthook.yml", ".lefthook.yaml",
		".lefthook-local", ".lefthook-local.yml", ".lefthook-local.yaml",
		// What a shell or a manager of versions runs on the way into a folder.
		".envrc", ".direnv", ".autoenv", ".autoenv.zsh", ".tool-versions", ".nvmrc",
		".mise", ".mise.toml", ".mise.*.toml", "mise.toml", "mise.*.toml", ".config/mise", ".config/mise.toml", ".rtx.toml",
		// Editors.
		".vscode", "*.code-workspace", ".idea", ".fleet", ".zed", ".helix", ".devcontainer", ".devcontainer.json",
		".exrc", ".nvimrc", ".nvim.lua", ".vimrc", ".lvimrc", ".vim", ".dir-locals.el", ".dir-locals-2.el",
		// Agents.
		".mcp.json", ".claude/settings*.json", ".claude/hooks", ".codex", ".gemini", ".cursor", ".windsurf", ".kiro", ".qwen", ".roo",
		".opencode", "opencode.json", "opencode.jsonc", ".crush.json", "crush.json", ".aider.conf.yml", ".amazonq", ".continue", ".trae", ".factory",
		// Managers of packages.
		".netrc", ".pypirc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".yarn/releases", ".yarn/plugins", ".pnpmfile.cjs", ".pnpmfile.mjs",
		".cargo/config", ".cargo/config.toml",
		// What debuggers and interpreters run where they are started.
		".gdbinit", ".gdbearlyinit", ".lldbinit", ".pdbrc", ".irbrc", ".pryrc", ".rprofile", ".renviron", ".ghci", ".iex.exs", ".ocamlinit", ".octaverc",
	})
}

// gitsOwn are git's files that name programs, or lead to files that do. A worktree's folder has submodules of its own.
func gitsOwn() (list []string) {
	for _, dir := range []string{".git", ".git/modules/**", ".git/worktrees/*", ".git/worktrees/*/modules/**"} {
		for _, name := range []string{"hooks", "config", "config.worktree", "config.worktree.lock", "commondir"} {
			list = append(list, dir+"/"+name)
		}
	}
	// git's old way to name a remote repository, and what an own configuration often includes.
	return append(list, ".git/worktrees/*/gitdir", ".git/remotes/*", ".git/branches/*", ".gitconfig")
}

const (
	anyDepth     = "**"
	dependencies = "node_modules"
	// maxAnyDepth bounds the ways in which one pattern can meet one path.
	maxAnyDepth = 2
)

// Matcher holds compiled patterns. It is immutable.
type Matcher struct {
	named map[string][]pattern // by the first component, where that is a plain name
	globs []pattern            // the rest
	all   []pattern
}

type pattern struct {
	anchored bool
	shallow  bool     // does not begin below node_modules
	parts    []string // folded
}

// New compiles the built-in patterns and own ones: slash-separated components, each a
// name, a path.Match glob or "**" for any number of components; a trailing "/**" means the
// same as the folder itself, which covers all below it.
func New(own []string) (*Matcher, error) {
	m := newMatcher()
	if err := m.addBuiltin(Builtin()); err != nil {
		return nil, err
	}
	for _, p := range own {
		compiled, err := compile(p)
		if err != nil {
			return nil, err
		}
		m.add(compiled)
	}
	return m, nil
}

func newMatcher() *Matcher { return &Matcher{named: map[string][]pattern{}} }

// addBuiltin adds patterns of our own lists.
func (m *Matcher) addBuiltin(list []string) error {
	for _, p := range list {
		compiled, err := compile(p)
		if err != nil {
			return err
		}
		compiled.shallow = compiled.parts[0] != gitDir
		m.add(compiled)
	}
	return nil
}

func (m *Matcher) add(p pattern) {
	m.all = append(m.all, p)
	if first := p.parts[0]; strings.ContainsAny(first, `*?[\`) {
		m.globs = append(m.globs, p)
	} else {
		m.named[first] = append(m.named[first], p)
	}
}

// beginning are the patterns that a folded name may be the first component of. Most names have none, and each change of the
// guest's asks.
func (m *Matcher) beginning(name string) [2][]pattern {
	if strings.Contains(name, "~") { // perhaps a short name
		return [2][]pattern{m.all}
	}
	return [2][]pattern{m.named[name], m.globs}
}

func compile(p string) (pattern, error) {
	rest, anchored := strings.CutPrefix(p, "/")
	rest = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(rest, "**/"), "/**"), "/")
	out := pattern{anchored: anchored && !strings.HasPrefix(p, "/**/")}
	deep := 0
	for part := range strings.SplitSeq(rest, "/") {
		if part == anyDepth {
			deep++
		} else if part == "" || part == "." || part == ".." || strings.Contains(part, anyDepth) || fold(part) == "" {
			return pattern{}, fmt.Errorf("protected path %q: component %q is not a name or a glob", p, part)
		}
		if _, err := path.Match(fold(part), ""); err != nil {
			return pattern{}, fmt.Errorf("protected path %q: component %q: %w", p, part, err)
		}
		out.parts = append(out.parts, fold(part))
	}
	if deep > maxAnyDepth || out.parts[0] == anyDepth {
		return pattern{}, fmt.Errorf("protected path %q: too many %q", p, anyDepth)
	}
	return out, nil
}

// Protected tells whether the path (components below the workspace's root) is
// protected: it matches a pattern or lies below something that does.
func (m *Matcher) Protected(parts []string) bool {
	if m.protected(parts) {
		return true
	}
	read, ok := backslashed(parts)
	return ok && (m.protected(read) || gitInName(parts))
}

// gitInName tells whether a single name would be several on other systems, and one of them git's folder.
func gitInName(parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool {
		pieces := strings.Split(part, `\`)
		return len(pieces) > 1 && slices.Contains(foldAll(pieces), gitDir)
	})
}

func (m *Matcher) protected(parts []string) bool { return m.covers(foldAll(parts), packagesAt(parts)) }

// covers tells whether the path is what a pattern names, or below it.
func (m *Matcher) covers(folded []string, packages int) bool {
	for at, name := range folded {
		for _, list := range m.beginning(name) {
			for _, p := range list {
				if at < p.starts(len(folded), packages) && slices.ContainsFunc(left(p.parts, folded[at:]), complete) {
					return true
				}
			}
		}
	}
	return false
}

func complete(rest []string) bool { return len(rest) == 0 }

// covers tells whether the path is what the pattern names, or below it.
func (p pattern) covers(folded []string, packages int) bool {
	for start := range p.starts(len(folded), packages) {
		if slices.ContainsFunc(left(p.parts, folded[start:]), complete) {
			return true
		}
	}
	return false
}

// Leads tells whether something below the path could be protected: the path ends
// in the beginning of a pattern. rests are the components missing for each.
// A folder there may be made, but nothing that points or is moved.
func (m *Matcher) Leads(parts []string) (rests [][]string) {
	folded, packages := foldAll(parts), packagesAt(parts)
	for at, name := range folded {
		for _, list := range m.beginning(name) {
			for _, p := range list {
				if at < p.starts(len(folded), packages) {
					rests = append(rests, missing(left(p.parts, folded[at:]))...)
				}
			}
		}
	}
	return rests
}

// leads are the components that are missing below the path for each way to meet the pattern.
func (p pattern) leads(folded []string, packages int) (rests [][]string) {
	for start := range p.starts(len(folded), packages) {
		rests = append(rests, missing(left(p.parts, folded[start:]))...)
	}
	return rests
}

func missing(rests [][]string) [][]string { return slices.DeleteFunc(rests, complete) }

// Match tells whether a name is what one component of Leads' rests asks for, or on the way to it.
func Match(component, name string) bool {
	return component == anyDepth || matches(component, fold(name))
}

// InDependencies tells whether a path is that of a folder of packages or below one, where not all
// built-in patterns hold. A folder that is moved out of there can bring along what they protect.
func InDependencies(parts []string) bool { return packagesAt(parts) >= 0 }

// packagesAt is where a path has a folder of packages, -1 if nowhere. That is no matter of what some file system takes
// for the name: less is protected there.
func packagesAt(parts []string) int {
	return slices.IndexFunc(parts, func(part string) bool { return len(part) == len(dependencies) && strings.EqualFold(part, dependencies) })
}

// starts is how many positions of n a pattern may begin at.
func (p pattern) starts(n, packages int) int {
	if p.anchored {
		return min(n, 1)
	}
	if p.shallow && packages >= 0 {
		return packages + 1
	}
	return n
}

// left is what remains of a pattern after each way in which its beginning matches all
// the components: nothing, when the path is at or below what the pattern names.
func left(parts, folded []string) [][]string {
	switch {
	case len(folded) == 0, len(parts) == 0:
		return [][]string{parts}
	case parts[0] == anyDepth:
		return append(left(parts[1:], folded), left(parts, folded[1:])...)
	}
	if !matches(parts[0], folded[0]) {
		return nil
	}
	return left(parts[1:], folded[1:])
}

func foldAll(parts []string) []string {
	out := make([]string, len(parts))
	for i, part := range parts {
		out[i] = fold(part)
	}
	return out
}
