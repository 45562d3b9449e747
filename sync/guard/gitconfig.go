package guard

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ErrConfig is a git configuration that a guest may not put in place.
var ErrConfig = errors.New("not a harmless change of git's configuration")

// MaxConfig is the size of the largest git configuration that is looked at, in bytes.
const MaxConfig = 256 << 10

// vetted are the protected files that a guest may replace as a whole, when [CheckConfig]
// agrees: git init, clone, remote and push -u write them.
func vetted() [][]string {
	return [][]string{{gitDir, "config"}, {gitDir, "modules", anyDepth, "config"}}
}

// Vetted tells whether the path is that of a git configuration.
func (m *Matcher) Vetted(parts []string) bool {
	folded := foldAll(parts)
	for _, p := range vetted() {
		for start := range folded {
			if endsAt(p, folded[start:]) {
				return true
			}
		}
	}
	return false
}

// endsAt tells whether the pattern takes up all components, none left over.
func endsAt(parts, folded []string) bool {
	switch {
	case len(parts) == 0:
		return len(folded) == 0
	case parts[0] == anyDepth:
		return endsAt(parts[1:], folded) || len(folded) > 0 && endsAt(parts, folded[1:])
	}
	return len(folded) > 0 && parts[0] == folded[0] && endsAt(parts[1:], folded[1:])
}

// CheckConfig tells whether a guest may replace the git configuration before by after.
// What is not known to be harmless must be there already, the same and in the same order:
// git runs commands that dozens of keys name, and its list grows. Syntax beyond one section
// or one key to a line, where git's reading and ours might differ, is refused.
func CheckConfig(before, after []byte) error {
	if string(before) == string(after) {
		return nil
	}
	old, err := risky(before)
	if err != nil {
		return fmt.Errorf("%w: what stands there now: %w", ErrConfig, err)
	}
	now, err := risky(after)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if !slices.Equal(old, now) {
		return fmt.Errorf("%w: %s", ErrConfig, difference(old, now))
	}
	return nil
}

// difference names the first entry that differs, in bounded length: it goes to a log.
func difference(old, now []string) string {
	for i, entry := range now {
		if i >= len(old) || entry != old[i] {
			return fmt.Sprintf("%.200q is new", entry)
		}
	}
	return fmt.Sprintf("%.200q is missing", old[len(now)])
}

var (
	sectionLine = regexp.MustCompile(`^\[([A-Za-z0-9-]+)(?:[ \t]+"((?:[^"\\]|\\["\\])*)")?\]$`)
	keyLine     = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*)[ \t]*(?:=[ \t]*(.*))?$`)
)

// risky are the entries of a configuration that are not known to be harmless.
func risky(config []byte) ([]string, error) {
	var out []string
	section, header := "", ""
	for line := range strings.SplitSeq(string(config), "\n") {
		line = strings.Trim(line, " \t")
		if strings.ContainsAny(line, "\x00\r\v\f") || strings.HasSuffix(line, `\`) {
			return nil, fmt.Errorf("line %.200q", line)
		}
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			section = strings.ToLower(m[1])
			header = section + "."
			if strings.HasSuffix(line, `"]`) { // an empty one is not none
				header += m[2] + "."
			}
			continue
		}
		m := keyLine.FindStringSubmatch(line)
		if m == nil || section == "" {
			return nil, fmt.Errorf("line %.200q", line)
		}
		if key := strings.ToLower(m[1]); !harmless(section, key, m[2]) {
			out = append(out, header+key+"="+m[2])
		}
	}
	return out, nil
}

// harmless tells whether git runs nothing and writes nowhere new because of an entry.
func harmless(section, key, value string) bool {
	switch section {
	case "core":
		return slices.Contains([]string{
			"repositoryformatversion", "filemode", "bare", "logallrefupdates", "ignorecase", "precomposeunicode",
			"symlinks", "autocrlf", "eol", "quotepath", "abbrev",
		}, key)
	case "extensions":
		return key == "objectformat" || key == "refstorage"
	case "user":
		return key == "name" || key == "email"
	case "remote":
		return slices.Contains([]string{"url", "pushurl", "fetch", "push", "tagopt", "prune"}, key) && plainAddress(value)
	case "branch":
		return slices.Contains([]string{"remote", "merge", "rebase", "pushremote", "description"}, key) && plainAddress(value)
	case "submodule":
		return (key == "url" || key == "active") && plainAddress(value)
	case "pull", "push", "fetch":
		return slices.Contains([]string{"rebase", "ff", "default", "autosetupremote", "followtags", "prune", "prunetags"}, key)
	case "color", "advice":
		return true
	}
	return false
}

// plainAddress tells whether a value is what it looks like, and no address that names a
// program for git to run (gitremote-helpers(7)) or passes for one of a program's options.
func plainAddress(value string) bool {
	return !strings.ContainsAny(value, `"\\`) && !strings.Contains(value, "::") && !strings.HasPrefix(value, "-")
}
