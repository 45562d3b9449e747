// Package guard says which paths of a workspace a guest may read and never change.
//
// They are what a tool on the host would execute or obey: the guest must not be
// able to leave code there for the user to run. Matching is pure: components are
// compared with case folded by Unicode's rules (a host's file system may fold, and
// `.vſcode` folds to `.vscode`), trailing dots and spaces and what follows a colon
// are dropped (other systems drop them), and whether the path exists does not matter.
//
// A git configuration is between the two: git init, clone, remote and push -u must write
// it, and it names commands for git to run. A guest may replace it as a whole, when only
// what is known to be harmless differs ([CheckConfig]).
//
// [Mask] is the other list: files whose content a guest never sees.
//
// Not covered: bare repositories that the guest makes and the user works in, what a rebase
// that the guest left unfinished would execute, and code that the user runs as such.
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
	return []string{
		"/sbx.yaml", "/sbx.yml",
		".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir",
		".git/modules/**/hooks", ".git/modules/**/config", ".git/modules/**/config.worktree", ".git/modules/**/commondir",
		".git/worktrees/*/config.worktree", ".git/worktrees/*/commondir", ".git/worktrees/*/gitdir",
		".git/worktrees/*/config", ".git/worktrees/*/hooks", // git's own where commondir is missing
		".husky", ".envrc", ".vscode", ".idea", ".devcontainer", ".devcontainer.json",
		".mcp.json", ".claude/settings*.json", ".claude/hooks",
		".codex", ".gemini", ".cursor", ".pre-commit-config.yaml",
		".mise.toml", ".tool-versions", ".netrc", ".pypirc", ".npmrc", ".nvmrc", ".yarnrc", ".yarnrc.yml",
	}
}

const (
	anyDepth     = "**"
	dependencies = "node_modules"
	// maxAnyDepth bounds the ways in which one pattern can meet one path.
	maxAnyDepth = 2
)

// Matcher holds compiled patterns. It is immutable.
type Matcher struct{ patterns []pattern }

type pattern struct {
	anchored bool
	shallow  bool     // does not begin below node_modules
	parts    []string // folded
}

// New compiles the built-in patterns and own ones: slash-separated components, each a
// name, a path.Match glob or "**" for any number of components; a trailing "/**" means the
// same as the folder itself, which covers all below it.
func New(own []string) (*Matcher, error) {
	m := &Matcher{}
	for _, p := range Builtin() {
		compiled, err := compile(p)
		if err != nil {
			return nil, err
		}
		compiled.shallow = compiled.parts[0] != gitDir
		m.patterns = append(m.patterns, compiled)
	}
	for _, p := range own {
		compiled, err := compile(p)
		if err != nil {
			return nil, err
		}
		m.patterns = append(m.patterns, compiled)
	}
	return m, nil
}

func compile(p string) (pattern, error) {
	rest, anchored := strings.CutPrefix(p, "/")
	rest = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(rest, "**/"), "/**"), "/")
	out := pattern{anchored: anchored && !strings.HasPrefix(p, "/**/")}
	deep := 0
	for part := range strings.SplitSeq(rest, "/") {
		if part == anyDepth {
			deep++
		} else if part == "" || part == "." || part == ".." || strings.Contains(part, anyDepth) {
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
	folded := foldAll(parts)
	return slices.ContainsFunc(m.patterns, func(p pattern) bool { return p.covers(folded) })
}

// covers tells whether the path is what the pattern names, or below it.
func (p pattern) covers(folded []string) bool {
	for start := range p.starts(folded) {
		if slices.ContainsFunc(left(p.parts, folded[start:]), func(rest []string) bool { return len(rest) == 0 }) {
			return true
		}
	}
	return false
}

// Leads tells whether something below the path could be protected: the path ends
// in the beginning of a pattern. rests are the components missing for each.
// A folder there may be made, but nothing that points or is moved.
func (m *Matcher) Leads(parts []string) (rests [][]string) {
	folded := foldAll(parts)
	for _, p := range m.patterns {
		rests = append(rests, p.leads(folded)...)
	}
	return rests
}

// leads are the components that are missing below the path for each way to meet the pattern.
func (p pattern) leads(folded []string) (rests [][]string) {
	for start := range p.starts(folded) {
		for _, rest := range left(p.parts, folded[start:]) {
			if len(rest) > 0 {
				rests = append(rests, rest)
			}
		}
	}
	return rests
}

// Match tells whether a name is what one component of Leads' rests asks for, or on the way to it.
func Match(component, name string) bool {
	ok, err := path.Match(component, fold(name))
	return ok && err == nil || component == anyDepth
}

// InDependencies tells whether a path is that of a folder of packages or below one, where not all
// built-in patterns hold. A folder that is moved out of there can bring along what they protect.
func InDependencies(parts []string) bool { return slices.Contains(foldAll(parts), dependencies) }

// starts is how many positions a pattern may begin at.
func (p pattern) starts(folded []string) int {
	n := len(folded)
	if p.anchored {
		return min(n, 1)
	}
	if i := slices.Index(folded, dependencies); p.shallow && i >= 0 {
		return i + 1
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
	if ok, err := path.Match(parts[0], folded[0]); !ok || err != nil {
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
