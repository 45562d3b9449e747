package guard

import (
	"slices"
	"strings"
)

// Folder is what a [Matcher] says of one folder, found out once for the many names in it.
type Folder struct {
	matcher *Matcher
	plain   bool // not protected, and nothing at a known place below it is
}

// Folder looks at a folder's path.
func (m *Matcher) Folder(parts []string) Folder {
	_, backslash := backslashed(parts)
	return Folder{m, !backslash && !m.Protected(parts) && len(m.Leads(parts)) == 0}
}

// Ordinary is a quick answer for most names in the folder: what stands there is neither [Matcher.Protected] nor
// [Matcher.Vetted], neither a pointer nor a lock of git's, and it leads to nothing that is. Otherwise each is to be asked for.
func (f Folder) Ordinary(name string) bool {
	if !f.plain || strings.IndexByte(name, '\\') >= 0 {
		return false
	}
	folded := fold(name)
	return len(f.matcher.named[folded]) == 0 && strings.IndexByte(folded, '~') < 0 &&
		!slices.ContainsFunc(f.matcher.globs, func(p pattern) bool { return matches(p.parts[0], folded) })
}
