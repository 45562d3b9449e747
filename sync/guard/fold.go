package guard

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

const gitDir = ".git"

// fold maps a name to what all names that some file system takes for it have in
// common.
func fold(name string) string {
	name, _, _ = strings.Cut(name, ":") // NTFS streams
	if trimmed := strings.TrimRight(name, ". "); trimmed != "" {
		name = trimmed
	}
	name = norm.NFC.String(strings.Map(foldRune, norm.NFC.String(name)))
	if name == "git~1" { // the short name that VFAT and NTFS give to .git
		return gitDir
	}
	return name
}

// foldRune picks the smallest rune that folds to r, in lower case, and drops those
// that HFS+ ignores.
func foldRune(r rune) rune {
	if ignorable(r) {
		return -1
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return unicode.ToLower(least)
}

// ignorable are the code points that HFS+ leaves out when it compares (git's utf8.c, next_hfs_char).
func ignorable(r rune) bool {
	switch {
	case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
		return true
	}
	return false
}
