package disk

import (
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// Ignore are rules in git's syntax for what is not mirrored. A nil one has none.
type Ignore struct{ matcher gitignore.Matcher }

// Bounds of rules: they come from a project's file, and each is tried on each path.
const (
	maxRules = 1000
	maxRule  = 1024
)

// NewIgnore compiles lines as they stand in a .gitignore: later ones win, a leading "!"
// takes back, a trailing slash means folders, and below an ignored folder nothing is taken back.
func NewIgnore(lines []string) (*Ignore, error) {
	if len(lines) > maxRules {
		return nil, fmt.Errorf("ignore: %d rules, more than %d", len(lines), maxRules)
	}
	var patterns []gitignore.Pattern
	for _, line := range lines {
		if len(line) > maxRule || strings.ContainsAny(line, "\n\x00") || strings.Count(line, "*") > 16 {
			return nil, fmt.Errorf("ignore: rule %.80q: must be one line of at most %d bytes with at most 16 stars", line, maxRule)
		}
		if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(line, "#") {
			continue
		}
		patterns = append(patterns, gitignore.ParsePattern(trailing(line), nil))
	}
	return &Ignore{matcher: gitignore.NewMatcher(patterns)}, nil
}

// trailing drops blanks at the end that no backslash keeps.
func trailing(line string) string {
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	return line
}

// Match tells whether a path is ignored, whose folders are not.
func (i *Ignore) Match(path string, folder bool) bool {
	return i != nil && path != "" && i.matcher.Match(strings.Split(path, "/"), folder)
}
