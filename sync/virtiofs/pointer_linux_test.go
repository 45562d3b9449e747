package virtiofs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/sync/guard"
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

// TestPointersHold plays random requests of a guest on the names of worktrees. Whatever it does, git on the host
// finds in a file that leads elsewhere nothing, or what was looked at, and no configuration or hook beside it.
func TestPointersHold(t *testing.T) {
	histories := 0
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		for range 3 {
			histories++
			playPointers(r, w, fmt.Sprintf("h%d", histories))
		}
	})
	t.Logf("%d histories", histories)
}

// pointing is a history: the guest's open files, and where it plays.
type pointing struct {
	*world
	r     *rapid.T
	base  string
	open  []uint64
	nodes []uint64
}

func playPointers(r *rapid.T, w *world, base string) {
	w.guestMkdir(base)
	for _, dir := range []string{".git", ".git/worktrees", "x"} {
		w.guestMkdir(base + "/" + dir)
	}
	p := &pointing{world: w, r: r, base: base}
	for range rapid.IntRange(10, 40).Draw(r, "ops") {
		p.play()
		p.look()
	}
}

func (p *pointing) path(label string) string {
	return p.base + "/" + rapid.SampledFrom([]string{
		".git/worktrees/a", ".git/worktrees/a/commondir", ".git/worktrees/a/config", "x", "x/.git", "x/commondir", "y", "y/.git",
	}).Draw(p.r, label)
}

func (p *pointing) play() {
	text := rapid.SampledFrom([]string{
		"gitdir: ../.git/worktrees/a\n", "gitdir: /long/way/to/.git/worktrees/a\n", "../..\n", "/t/.git\n", "gitdir: evil\n", "../../evil\n", "/evil", "x",
	}).Draw(p.r, "text")
	at := rapid.SampledFrom([]uint64{0, 0, 0, 3, 12}).Draw(p.r, "offset")
	from, to := p.path("from"), p.path("to")
	ops := []string{"open", "open", "write", "write", "write", "rename", "exchange", "link", "symlink", "rm", "mkdir", "size", "mknod"}
	switch rapid.SampledFrom(ops).Draw(p.r, "op") {
	case "open":
		p.openOne(from, rapid.SampledFrom([]uint32{0, unix.O_TRUNC, unix.O_EXCL, unix.O_APPEND}).Draw(p.r, "flags"))
	case "write":
		if h := p.handle(); h != 0 {
			_ = p.writeAt(h, text, at)
		}
	case "rename":
		p.guestRename(from, to)
	case "exchange":
		p.pair(from, to, func(dir uint64, base string, target uint64, toBase string) {
			_, _ = p.fuse(45, dir, pack(target), words(unix.RENAME_EXCHANGE, 0), name(base, toBase))
		})
	case "link":
		if node, err := p.node(from); err == nil {
			if dir, base, err := p.parent(to); err == nil {
				_, _ = p.fuse(13, dir, pack(node), name(base))
			}
		}
	case "symlink":
		p.guestLink(from)
	case "rm":
		p.guestRemove(from)
	case "mkdir":
		p.guestMkdir(from)
	case "size":
		if len(p.nodes) > 0 {
			_, _ = p.fuse(4, rapid.SampledFrom(p.nodes).Draw(p.r, "node"), words(1<<3|1<<6, 0), pack(p.handle(), at, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
		}
	case "mknod":
		if dir, base, err := p.parent(from); err == nil {
			_, _ = p.fuse(8, dir, words(unix.S_IFREG|0o644, 0, 0, 0), name(base))
		}
	}
}

func (p *pointing) openOne(path string, flags uint32) {
	if dir, base, err := p.parent(path); err == nil {
		if node, h, err := p.create(dir, base, unix.O_RDWR|flags, 0o100644); err == nil {
			p.open, p.nodes = append(p.open, h), append(p.nodes, node)
		}
	}
}

func (p *pointing) handle() uint64 {
	if len(p.open) == 0 {
		return 0
	}
	return rapid.SampledFrom(p.open).Draw(p.r, "handle")
}

func (p *pointing) pair(from, to string, f func(dir uint64, base string, target uint64, toBase string)) {
	dir, base, err := p.parent(from)
	if err != nil {
		return
	}
	if target, toBase, err := p.parent(to); err == nil {
		f(dir, base, target, toBase)
	}
}

// look is what git on the host would do.
func (p *pointing) look() {
	err := filepath.WalkDir(filepath.Join(p.dir, p.base), func(full string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(p.dir, full)
		parts := strings.Split(rel, "/")
		kind := guard.PointerAt(parts)
		switch n := len(parts); {
		case err != nil:
			return err
		case n > 3 && parts[n-4] == ".git" && parts[n-3] == "worktrees" && (parts[n-1] == "config" || parts[n-1] == "hooks"):
			return fmt.Errorf("%s was made", rel)
		case kind == guard.NoPointer || e.IsDir() && e.Name() == ".git":
			return nil
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is %v", rel, e.Type())
		}
		content, err := os.ReadFile(full)
		if err == nil && len(content) > 0 {
			err = kind.Check(content)
		}
		return err
	})
	if err != nil {
		p.r.Fatal(err)
	}
}
