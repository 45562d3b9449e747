package guard

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

const gitDir = ".git"

// fold maps a name to what all names that some file system takes for it have in
// common.
func fold(name string) string {
	if isFolded(name) {
		return name
	}
	name, _, _ = strings.Cut(name, ":") // NTFS streams
	if trimmed := strings.TrimRight(name, ". "); trimmed != "" {
		name = trimmed
	}
	if ascii(name) {
		name = strings.ToLower(name)
	} else {
		name = foldUnicode(name)
	}
	if short(gitDir, name) { // git's own list has git~1
		return gitDir
	}
	return name
}

// isFolded tells of most names that fold leaves them as they are.
func isFolded(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i < len(name)-1:
		default:
			return false
		}
	}
	return true
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// foldUnicode folds as the broadest file system does: ext4 and APFS fold ß to ss and a ligature to its letters, ZFS may
// fold letters of other widths. A slash that comes of that separates nothing.
func foldUnicode(name string) string {
	name = norm.NFKC.String(strings.Map(visible, name))
	name = norm.NFKC.String(strings.Map(visible, cases.Fold().String(name)))
	return strings.ReplaceAll(name, "/", "\ufffd")
}

// visible drops what file systems leave out when they compare: ext4 all that Unicode calls ignorable by default, HFS+ some
// of it (git's utf8.c, next_hfs_char).
func visible(r rune) rune {
	if unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
		return -1
	}
	return r
}

// matches tells whether a folded name is what a pattern's component asks for, or may be another name of it.
func matches(component, name string) bool {
	if component == name {
		return true
	}
	if !sameEnds(component, name) {
		return short(component, name) // most names
	}
	ok, err := path.Match(component, name)
	return ok && err == nil || short(component, name)
}

// sameEnds tells whether a name begins and ends with the letters that a component does, where those stand for themselves.
// Most names do not, and to look at a glob takes ten times as long.
func sameEnds(component, name string) bool {
	if name == "" {
		return true
	}
	first, last := component[0], component[len(component)-1]
	return (strings.IndexByte(`*?[\`, first) >= 0 || first == name[0]) && (strings.IndexByte(`*?]\`, last) >= 0 || last == name[len(name)-1])
}

// short tells whether a folded name can be the one of eight letters and three that VFAT and NTFS give besides to what a
// component names: its first six letters or two and four digits, and a number.
func short(component, name string) bool {
	if !strings.Contains(name, "~") {
		return false
	}
	stem, ext, _ := strings.Cut(name, ".")
	head, number, ok := strings.Cut(stem, "~")
	if !ok || number == "" || strings.Trim(number, "0123456789") != "" {
		return false
	}
	long, longExt := strings.TrimLeft(component, "."), ""
	if i := strings.LastIndexByte(long, '.'); i >= 0 {
		long, longExt = long[:i], long[i+1:]
	}
	long, _, glob := strings.Cut(strings.NewReplacer(".", "", " ", "", "?", "*", "[", "*").Replace(long), "*")
	long = long[:min(len(long), 6)]
	if long == "" || longExt[:min(len(longExt), 3)] != ext {
		return false
	}
	hashed := len(head) == 6 && len(long) > 1 && head[:2] == long[:2] && strings.Trim(head[2:], "0123456789abcdef") == ""
	return head == long || hashed || glob && strings.HasPrefix(head, long)
}

// backslashed tells whether a name has a backslash, which separates folders on other systems, and how it would be read there.
func backslashed(parts []string) (read []string, ok bool) {
	if !slices.ContainsFunc(parts, func(part string) bool { return strings.IndexByte(part, '\\') >= 0 }) {
		return nil, false
	}
	for _, part := range parts {
		pieces := strings.Split(part, `\`)
		ok = ok || len(pieces) > 1
		for _, piece := range pieces {
			if piece != "" && piece != "." {
				read = append(read, piece)
			}
		}
	}
	return read, ok
}
