package guard

import (
	"path"
	"strconv"
	"strings"
)

// Repository are the patterns that protect a repository that is in no folder called .git, by its path in the workspace: all
// that leads git to programs, configuration as a whole, and the pointers of its worktrees.
func Repository(at string) (list []string) {
	for _, p := range gitsOwn() {
		if rest, ok := strings.CutPrefix(p, gitDir+"/"); ok {
			list = append(list, Exactly(at)+"/"+rest)
		}
	}
	return list
}

// Led are the patterns that protect what a configuration of the host's user leads git to: the folder of hooks, which is
// named from the working tree, and included files, which are named from the configuration's folder, here at. What is
// outside of the workspace, dir, is not the guest's anyway.
func Led(dir, at string, content []byte) (list []string) {
	section := ""
	for line := range strings.SplitSeq(string(content), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			head, rest, _ := strings.Cut(line[1:], "]")
			section, _, _ = strings.Cut(strings.ToLower(head), " ")
			line = strings.TrimSpace(rest)
		}
		key, value, _ := strings.Cut(line, "=")
		from := ""
		switch section + "." + strings.ToLower(strings.TrimSpace(key)) {
		case "core.hookspath":
		case "include.path", "includeif.path":
			from = at
		default:
			continue
		}
		if to := Inside(dir, from, plainValue(value)); to != "" {
			list = append(list, Exactly(to))
		}
	}
	return list
}

// plainValue takes quotes and a comment off.
func plainValue(value string) string {
	value = strings.TrimSpace(value)
	if quoted, err := strconv.QuotedPrefix(value); err == nil {
		value, err = strconv.Unquote(quoted)
		if err == nil {
			return value
		}
	}
	if i := strings.IndexAny(value, "#;"); i >= 0 {
		value = value[:i]
	}
	return strings.TrimSpace(value)
}

// Inside gives a path that is named from a folder of the workspace, dir, as one below dir, empty for one that is elsewhere or dir itself.
func Inside(dir, from, to string) string {
	if path.IsAbs(to) {
		below, ok := strings.CutPrefix(path.Clean(to), path.Clean(dir)+"/")
		if !ok {
			return ""
		}
		return below
	}
	to = path.Join(from, to)
	if to == "" || to == "." || to == ".." || strings.HasPrefix(to, "../") || strings.HasPrefix(to, "~") {
		return ""
	}
	return to
}

// Exactly is the pattern of one path in the workspace.
func Exactly(name string) string {
	return "/" + strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}
