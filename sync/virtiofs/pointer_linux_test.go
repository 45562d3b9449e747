package virtiofs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// writeAt is one write of the guest's; the host's file is what it left.
func (w *world) writeAt(h uint64, text string, at uint64) error {
	_, err := w.fuse(16, 0, pack(h, at), words(uint32(len(text)), 0), pack(0, 0), []byte(text))
	return err
}

func (w *world) openToWrite(node uint64, flags uint32) (uint64, error) {
	out, err := w.fuse(14, node, words(unix.O_WRONLY|flags, 0))
	if err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(out), nil
}

func (w *world) holds(path, want string) {
	w.t.Helper()
	if got, err := os.ReadFile(filepath.Join(w.dir, path)); err != nil || string(got) != want {
		w.t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

// TestWorktrees: git worktree add, move and remove write and remove the files that lead from one to the other.
func TestWorktrees(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".git/HEAD"), "")
	w.guestMkdir("tree")
	w.guestMkdir(".git/worktrees")
	w.guestMkdir(".git/worktrees/tree")
	for path, content := range map[string]string{
		"tree/.git": "gitdir: " + w.dir + "/.git/worktrees/tree\n", ".git/worktrees/tree/gitdir": w.dir + "/tree/.git\n",
		".git/worktrees/tree/commondir": "../..\n",
	} {
		w.guestWrite(path, content)
		w.holds(path, content)
		w.guestWrite(path, content) // with O_TRUNC, as git worktree move and repair do
		w.holds(path, content)
	}
	w.guestRename("tree", "moved")
	for _, path := range []string{"moved/.git", ".git/worktrees/tree/gitdir", ".git/worktrees/tree/commondir"} {
		w.guestRemove(path)
		if _, err := os.Lstat(filepath.Join(w.dir, path)); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range []string{".git/worktrees/tree/config", ".git/worktrees/tree/config.worktree", ".git/worktrees/tree/hooks"} {
		if w.makes(path) { // without commondir git would obey them
			t.Errorf("the guest made %s", path)
		}
	}
}

// TestPointersLeadNowhereElse: whatever a guest does to a .git file, the host's or its own, what stands there is
// nothing, or what was looked at.
func TestPointersLeadNowhereElse(t *testing.T) {
	w := newWorld(t)
	const good, evil = "gitdir: ../.git/worktrees/a\n", "gitdir: ../evil/of/the/guest\n"
	w.write(t, filepath.Join(w.dir, "theirs/.git"), good)
	w.write(t, filepath.Join(w.dir, "mine/x"), evil)
	theirs, mine := w.dirNode("theirs", ".git"), w.dirNode("mine")

	h, err := w.openToWrite(theirs, 0)
	w.check(err)
	w.want("write over it", w.writeAt(h, evil, 0), unix.EPERM)
	w.want("write into it", w.writeAt(h, "evil", 11), unix.EPERM)
	_, err = w.fuse(43, theirs, pack(h, 0, 4096), words(0, 0)) // fallocate
	w.want("make it longer", err, unix.EPERM)
	_, err = w.fuse(4, theirs, words(1<<3|1<<6, 0), pack(h, 12, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
	w.want("cut it off", err, unix.EPERM)
	x := w.dirNode("mine", "x")
	_, err = w.fuse(4, x, words(1<<3|1<<6, 0), pack(h, 12, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
	w.want("cut it off by another's number", err, unix.EPERM)
	source, err := w.fuse(14, x, words(unix.O_RDONLY, 0))
	w.check(err)
	_, err = w.fuse(47, x, source[:8], pack(0, theirs, h, 0, uint64(len(evil)), 0)) // copy_file_range
	w.want("copy over it", err, unix.EPERM)
	_, err = w.fuse(13, mine, pack(theirs), name("alias"))
	w.want("another name for it", err, unix.EPERM)
	_, err = w.fuse(13, mine, pack(x), name(".git"))
	w.want("its name for another file", err, unix.EPERM)
	_, err = w.fuse(12, mine, pack(mine), name("x", ".git"))
	w.want("another file moved to its name", err, unix.EPERM)
	_, err = w.fuse(45, mine, pack(w.dirNode("theirs")), words(unix.RENAME_EXCHANGE, 0), name("x", ".git"))
	w.want("exchanged with another file", err, unix.EPERM)
	w.holds("theirs/.git", good)

	_, h, err = w.create(mine, ".git", unix.O_WRONLY|unix.O_EXCL, 0o100644)
	w.check(err)
	w.want("elsewhere", w.writeAt(h, evil, 0), unix.EPERM)
	w.want("the beginning alone", w.writeAt(h, "gitdir: ../.git", 0), unix.EPERM)
	w.want("not at the beginning", w.writeAt(h, good, 3), unix.EPERM)
	w.holds("mine/.git", "")
	w.want("as git does", w.writeAt(h, good, 0), nil)
	w.want("more", w.writeAt(h, "x", uint64(len(good))), unix.EPERM)
	w.want("again", w.writeAt(h, good, 0), unix.EPERM)
	w.holds("mine/.git", good)
	h, err = w.openToWrite(w.dirNode("mine", ".git"), unix.O_TRUNC)
	w.check(err)
	w.want("elsewhere, from nothing", w.writeAt(h, evil, 0), unix.EPERM)
	w.holds("mine/.git", "")
	// Own patterns hold for them too.
	w.write(t, filepath.Join(w.dir, "deploy/x"), "")
	_, _, err = w.create(w.dirNode("deploy"), ".git", unix.O_WRONLY, 0o100644)
	w.want("where nothing may be made", err, unix.EPERM)
}
