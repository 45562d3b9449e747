// Package tree compares two copies of a folder with the last state that both agreed
// on, and says what to do about the differences. It is all data: no files, no clock.
//
// Two sides: the host, whose user's work must never be lost, and the guest, whose
// root is hostile. [Reconcile] takes three trees and gives a [Plan]. What changed on one
// side flows to the other; who is newer is never asked, clocks lie. What changed on both
// keeps the host's version in place and the guest's beside it, under a name of its own.
// Without an agreed state nothing can be told to be deleted, so the result is the union.
package tree

import (
	"cmp"
	"slices"
	"strings"
)

// Kind is what a path is.
type Kind uint8

// Kinds of entries. None is no entry at all.
const (
	None Kind = iota
	Folder
	File
	Link
	// Unknown is something that could not be read, is no file, folder or link, or
	// changed while it was read. Nothing is done to it, to what is below it, or to
	// its counterpart.
	Unknown
)

func (k Kind) String() string {
	return [...]string{"nothing", "folder", "file", "link", "unknown"}[min(k, Unknown)]
}

// Hash is the SHA-256 of a file's content.
type Hash [32]byte

// Entry is one path of a tree. The zero Entry is an absent one.
type Entry struct {
	Kind   Kind
	Exec   bool   // files: executable by the owner
	Size   int64  // files: bytes
	Hash   Hash   // files
	Target string // links: as stored; Unknown: why
	// Stamp tells the side that has the file whether it is still the same. It is not
	// compared between sides.
	Stamp Stamp
}

// Stamp is what changes when a file does.
type Stamp struct {
	MTime, CTime int64 // nanoseconds since 1970
	Inode        uint64
}

// Same tells whether two entries are copies of each other. Nothing is like an
// unknown one.
func Same(a, b Entry) bool {
	if a.Kind != b.Kind || a.Kind == Unknown {
		return false
	}
	switch a.Kind {
	case File:
		return a.Exec == b.Exec && a.Size == b.Size && a.Hash == b.Hash
	case Link:
		return a.Target == b.Target
	}
	return true
}

// Tree is a folder's content by path: components joined by slashes, no leading one,
// the bytes as the file system gave them. The folder itself is not in it.
type Tree map[string]Entry

// Below gives the paths of the tree that are one of those given or below one.
func (t Tree) Below(paths []string) (out []string) {
	set := map[string]bool{}
	for _, p := range paths {
		if kind := t[p].Kind; kind == File || kind == Link {
			out = append(out, p)
		} else {
			set[p] = true
		}
	}
	if len(set) == 0 {
		return out
	}
	for p := range t {
		if set[""] || At(p, set) {
			out = append(out, p)
		}
	}
	return out
}

// At tells whether a path is one of the set or below one.
func At(p string, set map[string]bool) bool {
	for ; p != ""; p = Dir(p) {
		if set[p] {
			return true
		}
	}
	return false
}

// Within tells whether p is dir or below it.
func Within(p, dir string) bool {
	return dir == "" || p == dir || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

// Compare orders paths so that a folder comes right before all that is below it.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return cmp.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}

// Paths are the tree's, a folder before its content.
func (t Tree) Paths() []string {
	out := make([]string, 0, len(t))
	for p := range t {
		out = append(out, p)
	}
	slices.SortFunc(out, Compare)
	return out
}

// ValidName tells whether a name is one component of a path.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

// ValidPath tells whether a path is made of such names.
func ValidPath(path string) bool {
	if len(path) > maxPath {
		return false
	}
	for name := range strings.SplitSeq(path, "/") {
		if !ValidName(name) {
			return false
		}
	}
	return true
}

// What Linux takes (NAME_MAX, PATH_MAX), and macOS less.
const (
	maxName = 255
	maxPath = 4095
)

// Dir is the folder that a path is in, "" for the tree's own.
func Dir(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
