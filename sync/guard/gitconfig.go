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
	return [][]string{
		{gitDir, "config"}, {gitDir, "modules", anyDepth, "config"}, {gitDir, worktrees, "*", "modules", anyDepth, "config"},
	}
}

// IsLock tells whether the path is that of the file that git writes a configuration to before it moves it to its place.
func IsLock(parts []string) bool {
	n := len(parts)
	if n < 2 || !Match("config.lock", parts[n-1]) {
		return false
	}
	return isVetted(append(foldAll(parts[:n-1]), "config"))
}

// Vetted tells whether the path is that of a git configuration.
func (m *Matcher) Vetted(parts []string) bool { return isVetted(foldAll(parts)) }

func isVetted(folded []string) bool {
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
	return len(folded) > 0 && matches(parts[0], folded[0]) && endsAt(parts[1:], folded[1:])
}

// CheckConfig tells whether a guest may replace the git configuration at a path, before, by after.
// What is not known to be harmless must be there already, the same and in the same order:
// git runs commands that dozens of keys name, and its list grows. Syntax beyond one section
// or one key to a line, where git's reading and ours might differ, is refused.
//
// In the repository at the top, its submodules' too, no remote may become a folder: to push there runs the hooks in it,
// and the guest can make one. In a clone below, the guest's own as a rule, it may.
func CheckConfig(parts []string, before, after []byte) error {
	if string(before) == string(after) {
		return nil
	}
	folders := len(parts) > 0 && fold(parts[0]) != gitDir
	old, err := risky(before, folders)
	if err != nil {
		return fmt.Errorf("%w: what stands there now: %w", ErrConfig, err)
	}
	now, err := risky(after, folders)
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
	// network is an address that is no folder's: a URL, or HOST:PATH.
	network = regexp.MustCompile(`^(?:(?:https?|ssh|git|git\+ssh|ssh\+git|ftps?)://[^-/]|(?:[A-Za-z0-9._~-]+@)?[A-Za-z0-9][A-Za-z0-9._-]*:(?:[^/]|/[^/]))`)
)

// config is what is read of a configuration, line by line.
type config struct {
	folders bool     // remotes may be folders
	risky   []string // entries that are not known to be harmless
	used    []string // remotes that branches name, NAME and the entry
	remotes map[string]bool

	section, sub, header string
}

// risky are the entries of a configuration that are not known to be harmless.
func risky(content []byte, folders bool) ([]string, error) {
	c := config{folders: folders, remotes: map[string]bool{".": true}}
	for line := range strings.SplitSeq(string(content), "\n") {
		if err := c.line(strings.Trim(line, " \t")); err != nil {
			return nil, err
		}
	}
	// The name of no remote is a folder's to git.
	for i := 0; i < len(c.used); i += 2 {
		if !c.remotes[c.used[i]] {
			c.risky = append(c.risky, c.used[i+1])
		}
	}
	return c.risky, nil
}

func (c *config) line(line string) error {
	if strings.ContainsAny(line, "\x00\r\v\f") || strings.HasSuffix(line, `\`) {
		return fmt.Errorf("line %.200q", line)
	}
	if line == "" || line[0] == '#' || line[0] == ';' {
		return nil
	}
	if m := sectionLine.FindStringSubmatch(line); m != nil {
		c.section, c.sub = strings.ToLower(m[1]), m[2]
		c.header = c.section + "."
		if strings.HasSuffix(line, `"]`) { // an empty one is not none
			c.header += m[2] + "."
		}
		return nil
	}
	m := keyLine.FindStringSubmatch(line)
	if m == nil || c.section == "" {
		return fmt.Errorf("line %.200q", line)
	}
	c.entry(strings.ToLower(m[1]), m[2])
	return nil
}

func (c *config) entry(key, value string) {
	entry := c.header + key + "=" + value
	if !harmless(c.section, key, value) {
		c.risky = append(c.risky, entry)
		return
	}
	address := strings.HasSuffix(key, "url") && (c.section == "remote" || c.section == "submodule")
	switch {
	case c.folders:
	case address && !network.MatchString(value):
		c.risky = append(c.risky, entry)
	case c.section == "branch" && (key == "remote" || key == "pushremote"):
		c.used = append(c.used, value, entry)
	}
	if c.section == "remote" && key == "url" {
		c.remotes[c.sub] = true
	}
}

// harmless tells whether git runs nothing and writes nowhere new because of an entry, as far as its address is that of
// another machine.
func harmless(section, key, value string) bool {
	switch section {
	case "core":
		return slices.Contains([]string{
			"repositoryformatversion", "filemode", "bare", "logallrefupdates", "ignorecase", "precomposeunicode",
			"symlinks", "autocrlf", "eol", "quotepath", "abbrev",
		}, key)
	case "extensions":
		return key == "objectformat" || key == "refstorage" && !strings.Contains(value, ":")
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
