package virtiofs

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/sync/journal"
)

// kept is a world with a journal, whose user makes checkpoints and takes back what the guest did.
type kept struct {
	*world
	journal    string
	checkpoint func() int
}

// inMemory has a test's folders in memory where the host has such a place. On a disk, ext4 looks past each inode that was
// deleted within the last minutes, and the histories of these tests delete many.
func inMemory(t *testing.T) {
	t.Helper()
	const memory = "/dev/shm"
	if dir, err := os.MkdirTemp(memory, "sbx-"); err == nil {
		os.Remove(dir)
		t.Setenv("TMPDIR", memory)
	}
}

func newKept(t *testing.T) *kept {
	t.Helper()
	dir := t.TempDir()
	w := newWorldWith(t, func(c *Config) { c.Journal = dir })
	return &kept{w, dir, func() int { return w.do(Command{Checkpoint: "x"}).ID }}
}

type fataler interface{ Fatalf(string, ...any) }

// back is `sbx undo ID PATH…`; it gives the number of the undo's own checkpoint.
func (k *kept) back(t fataler, id int, paths ...string) (journal.Report, int) {
	k.checkpoint()
	h, err := k.readJournal(k.journal, id)
	if err != nil {
		t.Fatalf("read the journal: %v", err)
	}
	root, err := os.OpenRoot(k.dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer root.Close()
	undo, err := journal.BeginUndo(k.journal, "work", "undo", discard())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer undo.Close()
	u := &journal.Undoer{History: h, Root: root, Checkpoint: id, Keeper: undo.Keeper}
	return u.Undo(paths), undo.ID
}

// image is all below a folder: kinds, modes, contents, targets.
func image(dir string) map[string]string {
	out := map[string]string{}
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error { //nolint:errcheck // what cannot be read is missed
		if err != nil || p == dir {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case info.IsDir():
			out[rel] = info.Mode().String()
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			out[rel] = fmt.Sprintf("%v %q %v", info.Mode(), data, err)
		default:
			to, _ := os.Readlink(p)
			out[rel] = "-> " + to
		}
		return nil
	})
	return out
}

func differences(got, want map[string]string) (out []string) {
	for p := range want {
		if got[p] != want[p] {
			out = append(out, fmt.Sprintf("%q is %s, was %s", p, got[p], want[p]))
		}
	}
	for p := range got {
		if want[p] == "" {
			out = append(out, fmt.Sprintf("%q is %s, was nothing", p, got[p]))
		}
	}
	slices.Sort(out)
	return out
}

// guestSet is what chmod(1), touch(1) and truncate(1) ask for.
func (w *world) guestSet(path string, valid, mode uint32, size uint64, mtime int64) {
	node, err := w.node(path)
	if err != nil {
		return
	}
	_, _ = w.fuse(4, node, words(valid, 0), pack(0, size, 0, uint64(mtime), uint64(mtime), 0), words(0, 0, 0, mode, 0, 0, 0, 0))
}

func (w *world) guestExchange(from, to string) {
	dir, base, err := w.parent(from)
	if err != nil {
		return
	}
	if target, toBase, err := w.parent(to); err == nil {
		_, _ = w.fuse(45, dir, pack(target), words(unix.RENAME_EXCHANGE, 0), name(base, toBase))
	}
}

func (w *world) guestHardLink(from, to string) {
	node, err := w.node(from)
	if err != nil {
		return
	}
	if dir, base, err := w.parent(to); err == nil {
		_, _ = w.fuse(13, dir, pack(node), name(base))
	}
}

func someNames() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"a", "b", "d/x", "d/y", "d/e/z", "d", "e", "d/e", "e/x", "l", "-rf", "d/\xff\n"})
}

// guestDoes is one change of the guest's.
func (k *kept) guestDoes(r *rapid.T, base, content string, more ...string) string {
	p, to := base+"/"+someNames().Draw(r, "path"), base+"/"+someNames().Draw(r, "to")
	op := rapid.SampledFrom(append(more,
		"write", "write", "patch", "patch", "rm", "rm", "rename", "rename", "exchange", "mkdir", "link", "chmod", "chmod", "touch", "truncate", "clear",
	)).Draw(r, "guest")
	switch op {
	case "write":
		k.guestWrite(p, content)
	case "patch":
		k.guestPatch(p, content)
	case "rm":
		k.guestRemove(p)
	case "rename":
		k.guestRename(p, to)
	case "exchange":
		k.guestExchange(p, to)
	case "mkdir":
		k.guestMkdir(p)
	case "link":
		k.guestLink(p)
	case "chmod":
		k.guestSet(p, 1, rapid.SampledFrom([]uint32{0o600, 0o644, 0o755, 0o700, 0o777}).Draw(r, "mode"), 0, 0)
	case "touch":
		k.guestSet(p, 1<<5, 0, 0, int64(rapid.SampledFrom([]int{1, 1_000_000_000, 4_000_000_000}).Draw(r, "mtime")))
	case "truncate":
		k.guestSet(p, 1<<3, 0, uint64(rapid.IntRange(0, 9).Draw(r, "size")), 0)
	case "hard link":
		k.guestHardLink(p, to)
	case "clear":
		for _, below := range slices.Backward(slices.Sorted(maps.Keys(image(filepath.Join(k.dir, p))))) {
			k.guestRemove(p + "/" + below)
		}
		k.guestRemove(p)
	}
	return op + " " + p + " " + to
}

// begin is a tree of the user's.
func (k *kept) begin(r *rapid.T, base string) {
	full := filepath.Join(k.dir, base)
	for _, d := range []string{"", "d", "d/e"} {
		if err := os.Mkdir(filepath.Join(full, d), 0o755); err != nil {
			r.Fatal(err)
		}
	}
	for _, p := range []string{"a", "b", "d/x", "d/e/z", "d/\xff\n"} {
		if rapid.Bool().Draw(r, "there") {
			if err := os.WriteFile(filepath.Join(full, p), []byte(base+" began with "+p), 0o644); err != nil {
				r.Fatal(err)
			}
		}
	}
	if err := os.Symlink("a", filepath.Join(full, "l")); err != nil {
		r.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(full, "d"), rapid.SampledFrom([]os.FileMode{0o755, 0o700, 0o555}).Draw(r, "mode of d")); err != nil {
		r.Fatal(err)
	}
}

// TestUndoGivesTheCheckpointBack plays random histories of a guest alone, with checkpoints. An undo to any of them
// gives that tree back, byte for byte, with modes, links and folders; and the undo of the undo what there was before.
// (Hard links have tests of their own: a file is recorded by the name that the guest used.)
func TestUndoGivesTheCheckpointBack(t *testing.T) {
	inMemory(t)
	history := 0
	rapid.Check(t, func(r *rapid.T) {
		k := newKept(t)
		for range 10 {
			history++
			base := fmt.Sprintf("h%d", history)
			dir := filepath.Join(k.dir, base)
			k.begin(r, base)
			trees := map[int]map[string]string{k.checkpoint(): image(dir)}
			var did []string
			for n := range rapid.IntRange(1, 16).Draw(r, "ops") {
				if rapid.IntRange(0, 4).Draw(r, "checkpoint") == 0 {
					id := k.checkpoint()
					trees[id] = image(dir)
					did = append(did, "checkpoint "+strconv.Itoa(id))
				}
				did = append(did, k.guestDoes(r, base, fmt.Sprintf("guest's %s:%d", base, n)))
			}
			before := image(dir)
			id := rapid.SampledFrom(slices.Sorted(maps.Keys(trees))).Draw(r, "to")
			report, back := k.back(r, id, base)
			if d := differences(image(dir), trees[id]); len(d) > 0 || len(report.Missing)+len(report.Conflicts)+len(report.Kept) > 0 {
				r.Fatalf("undo to %d: %s\n%q\n%+v", id, strings.Join(d, "\n"), did, report)
			}
			report, _ = k.back(r, back, base)
			if d := differences(image(dir), before); len(d) > 0 || len(report.Missing)+len(report.Conflicts)+len(report.Kept) > 0 {
				r.Fatalf("undo of the undo to %d: %s\n%q\n%+v", id, strings.Join(d, "\n"), did, report)
			}
		}
	})
	t.Logf("%d histories", history)
}

// hostDoes is one change of the user's. wrote are the contents that must not be lost.
func (k *kept) hostDoes(r *rapid.T, base, content string, wrote map[string]bool) string {
	p := base + "/" + someNames().Draw(r, "path")
	full := filepath.Join(k.dir, p)
	gone := func() { // what the user replaces or removes himself
		if data, err := os.ReadFile(full); err == nil {
			delete(wrote, string(data))
		}
	}
	op := rapid.SampledFrom([]string{"save", "save", "in place", "same size", "rm", "mv"}).Draw(r, "host")
	switch op {
	case "save": // as most editors do
		if info, err := os.Lstat(full); err == nil && !info.Mode().IsRegular() || os.MkdirAll(filepath.Dir(full), 0o755) != nil {
			break
		}
		if os.WriteFile(full+"~", []byte(content), 0o644) == nil {
			gone()
			if os.Rename(full+"~", full) == nil {
				wrote[content] = true
			}
		}
	case "in place", "same size":
		old, err := os.ReadFile(full)
		if op == "same size" {
			if err != nil || len(old) < len(content) {
				break
			}
			content += strings.Repeat(".", len(old)-len(content))
		}
		gone()
		if os.WriteFile(full, []byte(content), 0o644) == nil {
			wrote[content] = true
			time.Sleep(5 * time.Millisecond) // what follows within a tick of the kernel's clock would look the same
		}
	case "rm":
		if info, err := os.Lstat(full); err == nil && info.Mode().IsRegular() {
			gone()
			os.Remove(full)
		}
	case "mv":
		to := filepath.Join(k.dir, base, "moved-"+strconv.Itoa(len(content)))
		if _, err := os.Lstat(to); err != nil {
			os.Rename(full, to) //nolint:errcheck // there may be none
		}
	}
	return "host: " + op + " " + p
}

// contentsOf adds the contents of all files below a folder.
func contentsOf(dir string, to map[string]bool) {
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error { //nolint:errcheck // what is gone is not there
		if err == nil && e.Type().IsRegular() {
			if data, err := os.ReadFile(p); err == nil {
				to[string(data)] = true
			}
		}
		return nil
	})
}

// TestNoByteOfTheHostsIsLost plays random histories of a guest and the host's user, with checkpoints and undos to any of
// them, of all or of a path. Whatever the user wrote and did not replace himself is in the tree or in the journal.
func TestNoByteOfTheHostsIsLost(t *testing.T) {
	inMemory(t)
	history := 0
	rapid.Check(t, func(r *rapid.T) {
		k := newKept(t)
		for range 10 {
			history++
			base := fmt.Sprintf("h%d", history)
			dir := filepath.Join(k.dir, base)
			k.begin(r, base)
			wrote := map[string]bool{}
			contentsOf(dir, wrote)
			ids := []int{k.checkpoint()}
			var did []string
			for n := range rapid.IntRange(1, 20).Draw(r, "ops") {
				switch rapid.IntRange(0, 9).Draw(r, "who") {
				case 0:
					ids = append(ids, k.checkpoint())
					did = append(did, "checkpoint")
				case 1:
					id := rapid.SampledFrom(ids).Draw(r, "to")
					what := base
					if rapid.Bool().Draw(r, "partial") {
						what += "/" + someNames().Draw(r, "what")
					}
					_, back := k.back(r, id, what)
					ids = append(ids, back)
					did = append(did, fmt.Sprintf("undo %d %s", id, what))
				case 2, 3, 4:
					did = append(did, k.hostDoes(r, base, fmt.Sprintf("host's %s:%02d", base, n), wrote))
				default:
					did = append(did, k.guestDoes(r, base, fmt.Sprintf("guest's %s:%d", base, n), "hard link"))
				}
			}
			there := map[string]bool{}
			contentsOf(dir, there)
			contentsOf(k.journal, there)
			for c := range wrote {
				if !there[c] {
					r.Fatalf("%q is nowhere\n%q", c, did)
				}
			}
		}
	})
	t.Logf("%d histories", history)
}

// TestTimesThatTheGuestForges: the user edits what the guest left, and the guest gives it back the time that it had
// and overwrites it.
func TestTimesThatTheGuestForges(t *testing.T) {
	k := newKept(t)
	full := filepath.Join(k.dir, "f")
	k.write(t, full, "before")
	k.guestWrite("f", "guest's one")
	info, err := os.Stat(full)
	k.check(err)
	time.Sleep(10 * time.Millisecond)
	k.write(t, full, "the user's!")
	node, err := k.node("f")
	k.check(err)
	at := info.ModTime()
	_, err = k.fuse(4, node, words(1<<5, 0), pack(0, 0, 0, 0, uint64(at.Unix()), 0), words(0, uint32(at.Nanosecond()), 0, 0, 0, 0, 0, 0))
	k.check(err)
	k.guestPatch("f", "GUEST")
	there := map[string]bool{}
	contentsOf(k.journal, there)
	if !there["the user's!"] {
		t.Errorf("the user's edit is nowhere: %v", there)
	}
	k.back(t, 1)
	if got, err := os.ReadFile(full); err != nil || string(got) != "the user's!" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUndoAfterTouchAndChmod: what unzip(1), cp -p and install(1) do to a file after they closed it is the guest's work
// as well; and diff says so.
func TestUndoAfterTouchAndChmod(t *testing.T) {
	k := newKept(t)
	for _, p := range []string{"touched", "moded"} {
		k.write(t, filepath.Join(k.dir, p), "before")
	}
	before := image(k.dir)
	k.guestWrite("touched", "guest's")
	k.guestSet("touched", 1<<5, 0, 0, 1_000_000_000)
	k.guestWrite("made", "guest's")
	k.guestSet("made", 1|1<<5, 0o755, 0, 1_000_000_000)
	k.guestSet("moded", 1, 0o777, 0, 0)
	h, err := k.readJournal(k.journal, 1)
	k.check(err)
	root, err := os.OpenRoot(k.dir)
	k.check(err)
	defer root.Close()
	changes, err := h.Changes(root)
	k.check(err)
	for _, c := range changes {
		if c.ByHost {
			t.Errorf("%s is said to be the user's change", c.Path)
		}
	}
	k.guestPatch("moded", "GUEST")
	report, _ := k.back(t, 1)
	if d := differences(image(k.dir), before); len(d) > 0 || len(report.Conflicts)+len(report.Kept) > 0 {
		t.Errorf("%q; %+v", d, report)
	}
}

// TestUndoOfExchangedFolders: renameat2(2) with RENAME_EXCHANGE moves two folders at once.
func TestUndoOfExchangedFolders(t *testing.T) {
	k := newKept(t)
	for p, content := range map[string]string{"a/same": "1", "b/same": "2", "a/x": "3", "b/y": "4", "f": "5"} {
		k.write(t, filepath.Join(k.dir, p), content)
	}
	before := image(k.dir)
	k.guestExchange("a", "b")
	k.guestExchange("b", "f")
	report, _ := k.back(t, 1)
	if d := differences(image(k.dir), before); len(d) > 0 || len(report.Conflicts)+len(report.Kept)+len(report.Missing) > 0 {
		t.Errorf("%q; %+v", d, report)
	}
}

// TestUndoOfTheGuestsHardLinks: a second name that the guest gave a file of the user's is the guest's, also after the
// guest wrote by the first one.
func TestUndoOfTheGuestsHardLinks(t *testing.T) {
	k := newKept(t)
	k.write(t, filepath.Join(k.dir, "f"), "the user's")
	before := image(k.dir)
	k.guestHardLink("f", "g")
	k.guestPatch("f", "GUEST")
	report, _ := k.back(t, 1)
	if d := differences(image(k.dir), before); len(d) > 0 {
		t.Errorf("%q; %+v", d, report)
	}
}

// TestUndoAfterANameIsGone: a file that is written to by a handle of a name that is gone is no file of another name.
func TestUndoAfterANameIsGone(t *testing.T) {
	k := newKept(t)
	k.write(t, filepath.Join(k.dir, "f"), "the user's")
	before := image(k.dir)
	k.guestHardLink("f", "g")
	node, err := k.node("g")
	k.check(err)
	h, err := k.openToWrite(node, 0)
	k.check(err)
	k.guestRemove("g")
	k.check(k.writeAt(h, "GUEST", 0))
	_, err = k.fuse(18, node, pack(h), words(0, 0), pack(0))
	k.check(err)
	report, _ := k.back(t, 1)
	if d := differences(image(k.dir), before); len(d) > 0 {
		t.Errorf("%q; %+v", d, report)
	}
}
