package guard

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Pointer is a kind of file that leads git elsewhere.
type Pointer int

// The kinds. All but NoPointer may hold nothing, or what [Pointer.Check] agrees with: git worktree writes them, and
// writes them whole.
const (
	NoPointer Pointer = iota
	gitFile           // .git, in a working tree: which repository it is of
	backLink          // .git/worktrees/*/gitdir: where the working tree is
	commonDir         // .git/worktrees/*/commondir: which repository the worktree is of
)

// MaxPointer is the size of the largest pointer, in bytes.
const MaxPointer = 4096

// PointerAt tells what a file at the path (components below the workspace's root) would be.
func PointerAt(parts []string) Pointer {
	folded := foldAll(parts[max(0, len(parts)-4):])
	switch {
	case len(folded) > 0 && folded[len(folded)-1] == gitDir:
		return gitFile
	case len(folded) < 4 || folded[0] != gitDir || folded[1] != worktrees:
	case folded[3] == "gitdir":
		return backLink
	case folded[3] == "commondir":
		return commonDir
	}
	return NoPointer
}

const worktrees = "worktrees"

// Check tells whether a guest may write the content. What git on the host would find by it has to be what this
// package protects: a .git file may name a worktree's folder of some repository, in which nothing that git
// executes can be made, and that folder the repository that it lies in.
func (p Pointer) Check(content []byte) error {
	line := string(bytes.TrimSuffix(content, []byte("\n")))
	if len(content) > MaxPointer || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: a pointer of %d bytes that is not one line", ErrConfig, len(content))
	}
	ok := false
	switch p {
	case gitFile:
		path, found := strings.CutPrefix(line, "gitdir: ")
		ok = found && plainWorktree(path)
	case backLink:
		ok = strings.HasSuffix(line, "/"+gitDir)
	case commonDir:
		ok = line == "../.."
	}
	if !ok {
		return fmt.Errorf("%w: %.200q leads git elsewhere", ErrConfig, line)
	}
	return nil
}

// plainWorktree tells whether a path ends in .git/worktrees/NAME, and goes up at its beginning alone: wherever the
// file with it is moved, the path leads to such a folder or out of the workspace, where the guest makes nothing.
func plainWorktree(path string) bool {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for len(parts) > 0 && parts[0] == ".." {
		parts = parts[1:]
	}
	n := len(parts)
	return n >= 3 && parts[n-3] == gitDir && parts[n-2] == worktrees &&
		!slices.ContainsFunc(parts, func(s string) bool { return s == "" || s == "." || s == ".." })
}
