// Package guard says which paths of a workspace a guest may read and never change.
//
// They are what a tool on the host would execute or obey: the guest must not be
// able to leave code there for the user to run. Matching is pure: components are
// compared with case folded by Unicode's rules (a host's file system may fold, and
// `.vſcode` folds to `.vscode`), trailing dots and spaces and what follows a colon
// are dropped (other systems drop them), and whether the path exists does not matter.
package guard

import (
	"fmt"
	"path"
	"strings"
)

// Builtin is protected in every workspace. A pattern with a leading slash is tied
// to the workspace's root; others match at any depth.
func Builtin() []string {
	return []string{
		"/sbx.yaml", "/sbx.yml", "/.git/config", "/.git/config.worktree",
		".git/hooks", ".git/modules/*/hooks", ".git/modules/*/config",
		".husky", ".envrc", ".vscode", ".idea", ".devcontainer", ".devcontainer.json",
		".mcp.json", ".claude/settings.json", ".claude/settings.local.json", ".claude/hooks",
		".codex", ".gemini", ".cursor", ".pre-commit-config.yaml",
		".mise.toml", ".tool-versions", ".netrc", ".pypirc",
	}
}

// Matcher holds compiled patterns. It is immutable.
type Matcher struct{ patterns []pattern }

type pattern struct {
	anchored bool
	parts    []string // folded
}

// New compiles patterns: slash-separated components, each a name or a path.Match
// glob; a trailing "/**" means the same as the folder itself, which covers all below it.
func New(patterns []string) (*Matcher, error) {
	m := &Matcher{}
	for _, p := range patterns {
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
	rest = strings.TrimSuffix(strings.TrimSuffix(rest, "/**"), "/")
	out := pattern{anchored: anchored}
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." || strings.Contains(part, "**") {
			return pattern{}, fmt.Errorf("protected path %q: component %q is not a name or a glob", p, part)
		}
		if _, err := path.Match(fold(part), ""); err != nil {
			return pattern{}, fmt.Errorf("protected path %q: component %q: %w", p, part, err)
		}
		out.parts = append(out.parts, fold(part))
	}
	return out, nil
}

// Protected tells whether the path (components below the workspace's root) is
// protected: it matches a pattern or lies below something that does.
func (m *Matcher) Protected(parts []string) bool {
	folded := foldAll(parts)
	for _, p := range m.patterns {
		for start := range p.starts(len(folded)) {
			if len(folded)-start >= len(p.parts) && p.matches(folded[start:start+len(p.parts)]) {
				return true
			}
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
		for start := range p.starts(len(folded)) {
			have := folded[start:]
			if len(have) < len(p.parts) && p.matches(have) {
				rests = append(rests, p.parts[len(have):])
			}
		}
	}
	return rests
}

// Match tells whether a name is what one component of Leads' rests asks for.
func Match(component, name string) bool {
	ok, err := path.Match(component, fold(name))
	return ok && err == nil
}

// starts is how many positions a pattern may begin at.
func (p pattern) starts(n int) int {
	if p.anchored {
		return min(n, 1)
	}
	return n
}

func (p pattern) matches(folded []string) bool {
	for i, part := range folded {
		if ok, err := path.Match(p.parts[i], part); !ok || err != nil {
			return false
		}
	}
	return true
}

func foldAll(parts []string) []string {
	out := make([]string, len(parts))
	for i, part := range parts {
		out[i] = fold(part)
	}
	return out
}
