package virtiofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/sync/journal"
)

// journaled is a world whose changes are kept.
func journaled(t *testing.T) (*world, string) {
	t.Helper()
	dir := t.TempDir()
	w := newWorldWith(t, func(c *Config) { c.Journal, c.Label = dir, "up" })
	return w, dir
}

// undo takes back what the guest did below paths, as `sbx undo` does.
func (w *world) undo(t interface{ Fatal(...any) }, dir string, paths ...string) journal.Report {
	root, err := os.OpenRoot(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h, err := w.readJournal(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	u := &journal.Undoer{History: h, Root: root, Checkpoint: 1}
	return u.Undo(paths)
}

// Ops of a guest, by path; what fails is as if it was not asked for.

func (w *world) node(path string) (uint64, error) {
	node := w.work
	for part := range strings.SplitSeq(path, "/") {
		var err error
		if node, err = w.lookup(node, part); err != nil {
			return 0, err
		}
	}
	return node, nil
}

func (w *world) parent(path string) (uint64, string, error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		return w.work, base, nil
	}
	node, err := w.node(strings.TrimSuffix(dir, "/"))
	return node, base, err
}

// guestWrite makes or overwrites a file.
func (w *world) guestWrite(path, content string) {
	dir, base, err := w.parent(path)
	if err != nil {
		return
	}
	_, h, err := w.create(dir, base, unix.O_WRONLY|unix.O_TRUNC, 0o100644)
	if err != nil {
		return
	}
	node, err := w.node(path)
	w.check(err)
	_, err = w.fuse(16, node, pack(h, 0), words(uint32(len(content)), 0), pack(0, 0), []byte(content))
	w.check(err)
	_, err = w.fuse(18, node, pack(h), words(0, 0), pack(0))
	w.check(err)
}

// guestPatch writes into the middle of a file that is there.
func (w *world) guestPatch(path, content string) {
	node, err := w.node(path)
	if err != nil {
		return
	}
	out, err := w.fuse(14, node, words(unix.O_WRONLY, 0))
	if err != nil {
		return
	}
	h := binary.NativeEndian.Uint64(out)
	_, err = w.fuse(16, node, pack(h, 1), words(uint32(len(content)), 0), pack(0, 0), []byte(content))
	w.check(err)
	_, err = w.fuse(18, node, pack(h), words(0, 0), pack(0))
	w.check(err)
}

func (w *world) guestRemove(path string) {
	dir, base, err := w.parent(path)
	if err != nil {
		return
	}
	if _, err := w.fuse(10, dir, name(base)); err != nil {
		_, _ = w.fuse(11, dir, name(base))
	}
}

func (w *world) guestRename(from, to string) {
	dir, base, err := w.parent(from)
	if err != nil {
		return
	}
	target, toBase, err := w.parent(to)
	if err == nil {
		_, _ = w.fuse(12, dir, pack(target), name(base, toBase))
	}
}

func (w *world) guestMkdir(path string) {
	if dir, base, err := w.parent(path); err == nil {
		_, _ = w.fuse(9, dir, words(0o755, 0), name(base))
	}
}

func (w *world) guestLink(path string) {
	if dir, base, err := w.parent(path); err == nil {
		_, _ = w.fuse(6, dir, name(base, "target"))
	}
}

// TestUndoBringsTheTreeBack is the promise: a guest deletes everything, the host's user edits one file meanwhile.
func TestUndoBringsTheTreeBack(t *testing.T) {
	w, dir := journaled(t)
	for path, content := range map[string]string{"a": "tracked", "deep/er/b": "ignored", "deep/c": "untracked", "mine": "before"} {
		w.write(t, filepath.Join(w.dir, path), content)
	}
	w.check(os.Symlink("a", filepath.Join(w.dir, "link")))
	w.check(os.Chmod(filepath.Join(w.dir, "deep/c"), 0o755))
	for _, path := range []string{"a", "deep/er/b", "deep/er", "deep/c", "deep", "link", "mine"} {
		w.guestRemove(path)
	}
	w.guestWrite("new", "the guest's")
	w.write(t, filepath.Join(w.dir, "mine"), "after")
	if entries, _ := os.ReadDir(w.dir); len(entries) != 2 {
		t.Fatalf("the guest left %v", entries)
	}
	r := w.undo(t, dir)
	for path, want := range map[string]string{"a": "tracked", "deep/er/b": "ignored", "deep/c": "untracked", "mine": "after", "link": "tracked"} {
		if got, err := os.ReadFile(filepath.Join(w.dir, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(w.dir, "deep/c")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "new")); err == nil {
		t.Error("what the guest made is still there")
	}
	if !slices.Equal(r.Conflicts, []string{"mine"}) || len(r.Missing) > 0 {
		t.Errorf("%+v", r)
	}
	if got, err := os.ReadFile(journal.Beside(filepath.Join(w.dir, "mine"), 1)); err != nil || string(got) != "before" {
		t.Errorf("beside it: %q, %v", got, err)
	}
}

func TestUndoOfMovesAndModes(t *testing.T) {
	w, dir := journaled(t)
	w.write(t, filepath.Join(w.dir, "src/x"), "x")
	w.write(t, filepath.Join(w.dir, "src/sub/y"), "y")
	w.write(t, filepath.Join(w.dir, "f"), "f")
	w.guestRename("src", "lib")
	w.guestPatch("lib/x", "!")
	w.guestWrite("lib/added", "z")
	w.guestRename("f", "g")
	node, err := w.node("g")
	w.check(err)
	_, err = w.setattr(node, 1<<0, 0o600, 0, 0)
	w.check(err)
	if r := w.undo(t, dir); len(r.Missing) > 0 || len(r.Conflicts) > 0 {
		t.Errorf("%+v", r)
	}
	var got []string
	w.check(filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			b, _ := os.ReadFile(p)
			rel, _ := filepath.Rel(w.dir, p)
			got = append(got, rel+"="+string(b))
		}
		return err
	}))
	if want := []string{"f=f", "src/sub/y=y", "src/x=x"}; !slices.Equal(got, want) {
		t.Errorf("the tree is %q, want %q", got, want)
	}
}

// A checkpoint later the guest's earlier work is what is gone back to.
func TestUndoToALaterCheckpoint(t *testing.T) {
	dir := t.TempDir()
	w := newWorldWith(t, func(c *Config) { c.Journal = dir })
	w.guestWrite("f", "one")
	w2, err := journal.Open(dir, journal.Limits{}, "another process", discard())
	w.check(err)
	defer w2.Close()
	h, err := w.readJournal(dir, 2)
	w.check(err)
	root, err := os.OpenRoot(w.dir)
	w.check(err)
	defer root.Close()
	if changes, err := h.Changes(root); err != nil || len(changes) != 0 {
		t.Errorf("a fresh checkpoint has changes: %+v, %v", changes, err)
	}
	if _, err := w.readJournal(dir, 9); err == nil {
		t.Error("a checkpoint that is none is read")
	}
}

func TestDiff(t *testing.T) {
	w, dir := journaled(t)
	w.write(t, filepath.Join(w.dir, "changed"), "one\ntwo\n")
	w.write(t, filepath.Join(w.dir, "gone"), "x\n")
	w.guestWrite("changed", "one\n2\n")
	w.guestRemove("gone")
	w.guestWrite("new", "n\n")
	w.guestWrite("passing", "n\n")
	w.guestRemove("passing")
	h, err := w.readJournal(dir, 1)
	w.check(err)
	root, err := os.OpenRoot(w.dir)
	w.check(err)
	defer root.Close()
	changes, err := h.Changes(root)
	w.check(err)
	var got []string
	for _, c := range changes {
		got = append(got, c.Status+" "+c.Path)
	}
	if want := []string{"M changed", "D gone", "A new"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	var patch bytes.Buffer
	w.check(h.Patch(&patch, root, changes))
	for _, want := range []string{"-two\n+2\n", "-x\n", "+n\n"} {
		if !strings.Contains(patch.String(), want) {
			t.Errorf("no %q in\n%s", want, &patch)
		}
	}
}

// A journal comes from a process that a guest might have taken over.
func TestHostileJournal(t *testing.T) {
	w, dir := journaled(t)
	w.guestWrite("f", "x")
	w.do(Command{Flush: true})
	log := filepath.Join(dir, "000001", "log")
	for name, line := range map[string]string{
		"up":       `{"op":"old","export":"work","path":"Li4vY2FuYXJ5","kind":"file","data":"0"}`,
		"absolute": `{"op":"old","export":"work","path":"L2V0Yy9wYXNzd2Q=","kind":"none"}`,
		"garbage":  `{"op":`,
	} {
		old, err := os.ReadFile(log)
		w.check(err)
		w.check(os.WriteFile(log, append(old, line+"\n"...), 0o600))
		if _, err := w.readJournal(dir, 1); err == nil {
			t.Errorf("%s: taken", name)
		}
		w.check(os.WriteFile(log, old, 0o600))
	}
	outside := `{"op":"old","export":"work","path":"Zg==","kind":"file","data":"../../canary"}` + "\n"
	w.check(os.WriteFile(log, []byte(outside), 0o600))
	if r := w.undo(t, dir); len(r.Missing) == 0 && len(r.Restored) > 0 {
		t.Errorf("content from elsewhere: %+v", r)
	}
}

// TestUndoThroughALinkOfTheGuests: where the guest put a link in a folder's place, the folder is back, and what the
// link led to is as it was.
func TestUndoThroughALinkOfTheGuests(t *testing.T) {
	for _, target := range []string{"target", "none"} {
		w, dir := journaled(t)
		w.write(t, filepath.Join(w.dir, "target/x"), "another")
		w.guestMkdir("d")
		w.write(t, filepath.Join(w.dir, "d/x"), "host's")
		w.guestRename("d", "a")
		_, err := w.fuse(6, w.work, name("d", target))
		w.check(err)
		report := w.undo(t, dir)
		for path, want := range map[string]string{"d/x": "host's", "target/x": "another"} {
			if got, err := os.ReadFile(filepath.Join(w.dir, path)); err != nil || string(got) != want {
				t.Errorf("link to %s: %s holds %q, %v; %+v", target, path, got, err, report)
			}
		}
		if entries, err := os.ReadDir(filepath.Join(w.dir, "target")); err != nil || len(entries) != 1 {
			t.Errorf("beside it: %v, %v", entries, err)
		}
	}
}

// TestUndoOfWritesByOneHandle: between two writes by a handle that stays open, and between the last and the close, what the
// user does is not taken for the guest's.
func TestUndoOfWritesByOneHandle(t *testing.T) {
	edit := func(full string) error { return os.WriteFile(full, []byte("host's second"), 0o600) }
	for name, c := range map[string]struct {
		between func(full string) error
		again   bool // the guest writes after that
		want    string
	}{
		"nothing":                  {func(string) error { return nil }, true, "host's"},
		"an edit":                  {edit, true, "host's second"},
		"an edit before the close": {edit, false, "host's second"},
		"another's name":           {func(full string) error { return os.Rename(full, full+".moved") }, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := journaled(t)
			full := filepath.Join(w.dir, "f")
			w.write(t, full, "host's")
			node, err := w.node("f")
			w.check(err)
			h, err := w.openToWrite(node, 0)
			w.check(err)
			w.check(w.writeAt(h, "GUEST", 0))
			w.check(c.between(full))
			if c.again {
				w.check(w.writeAt(h, "AGAIN", 0))
			}
			_, err = w.fuse(18, node, pack(h), words(0, 0), pack(0))
			w.check(err)
			report := w.undo(t, dir)
			if got, err := os.ReadFile(full); c.want != "" && (err != nil || string(got) != c.want) {
				t.Errorf("%q, %v; want %q; %+v", got, err, c.want, report)
			}
			if len(report.Missing) > 0 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// TestUndoInAMovedFolder: what was remembered of a folder's place is void when the guest moves it, or one above it.
func TestUndoInAMovedFolder(t *testing.T) {
	w, dir := journaled(t)
	w.check(os.MkdirAll(filepath.Join(w.dir, "a/b"), 0o755))
	b := w.dirNode("a", "b")
	_, _, err := w.create(b, "before", unix.O_WRONLY|unix.O_CREAT, 0o100644)
	w.check(err)
	w.guestRename("a", "c")
	_, _, err = w.create(b, "after", unix.O_WRONLY|unix.O_CREAT, 0o100644)
	w.check(err)
	report := w.undo(t, dir)
	if left, err := os.ReadDir(filepath.Join(w.dir, "a/b")); err != nil || len(left) > 0 {
		t.Errorf("%v, %v; %+v", left, err, report)
	}
	if _, err := os.Lstat(filepath.Join(w.dir, "c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("c: %v; %+v", err, report)
	}
}

// TestUndoOfLinkedFile: a file that the user gave two names has its content back at each that the guest wrote to.
func TestUndoOfLinkedFile(t *testing.T) {
	w, dir := journaled(t)
	w.write(t, filepath.Join(w.dir, "a"), "host's")
	w.check(os.Link(filepath.Join(w.dir, "a"), filepath.Join(w.dir, "b")))
	w.guestPatch("a", "!")
	w.guestPatch("b", "?")
	report := w.undo(t, dir)
	got, err := os.ReadFile(filepath.Join(w.dir, "a"))
	if err != nil || string(got) != "host's" || len(report.Missing) > 0 {
		t.Errorf("%q, %v; %+v", got, err, report)
	}
}

// TestNothingOfTheHostsIsLost plays random histories of a guest and the host's user on few paths. Every content that
// the user wrote, and did not himself remove or replace, is in the tree or in the journal; and after undo each
// path has the user's last content again.
func TestNothingOfTheHostsIsLost(t *testing.T) {
	inMemory(t)
	history := 0
	rapid.Check(t, func(r *rapid.T) {
		w, dir := journaled(t)
		for range 20 {
			history++
			play(r, w, dir, fmt.Sprintf("h%d", history))
		}
	})
	t.Logf("%d histories", history)
}

func play(r *rapid.T, w *world, dir, base string) {
	host := map[string]string{} // the user's last content of each path
	if err := os.Mkdir(filepath.Join(w.dir, base), 0o755); err != nil {
		r.Fatal(err)
	}
	serial := 0
	paths := rapid.SampledFrom([]string{"a", "b", "d/x", "d/y", "e/x", "d", "e"})
	for range rapid.IntRange(1, 14).Draw(r, "ops") {
		serial++
		// A length of its own, so that no two versions look alike to a clock that is coarse.
		content := fmt.Sprintf("%s:%d:%s", base, serial, strings.Repeat("x", serial))
		p := base + "/" + paths.Draw(r, "path")
		full := filepath.Join(w.dir, p)
		switch rapid.SampledFrom([]string{"host", "host", "hostrm", "write", "write", "patch", "rm", "rm", "rename", "mkdir", "link"}).Draw(r, "op") {
		case "host":
			if os.MkdirAll(filepath.Dir(full), 0o755) == nil && os.WriteFile(full, []byte(content), 0o644) == nil {
				if real, err := os.Readlink(full); err == nil { // through the guest's link
					p = filepath.Join(filepath.Dir(p), real)
				}
				host[p] = content
			}
		case "hostrm":
			if info, err := os.Lstat(full); err == nil && info.Mode().IsRegular() && os.Remove(full) == nil {
				delete(host, p)
			}
		case "write":
			w.guestWrite(p, "guest "+content)
		case "patch":
			w.guestPatch(p, "guest "+content)
		case "rm":
			w.guestRemove(p)
		case "rename":
			w.guestRename(p, base+"/"+paths.Draw(r, "to"))
		case "mkdir":
			w.guestMkdir(p)
		case "link":
			w.guestLink(p)
		}
	}
	report := w.undo(r, dir, base)
	for p, want := range host {
		got, err := os.ReadFile(filepath.Join(w.dir, p))
		if string(got) != want { // the user may have put a folder in its place himself
			got, err = os.ReadFile(filepath.Join(w.dir, journal.Beside(p, 1)))
		}
		// Or a file: then the old version has no place, which is said; the journal has it.
		_, replaced := host[filepath.Dir(p)]
		named := slices.ContainsFunc(report.Missing, func(l journal.Lost) bool { return l.Path == p })
		if (err != nil || string(got) != want) && (!replaced || !named) {
			r.Fatalf("%s: %q, %v; the user last wrote %q; %+v", p, got, err, want, report)
		}
	}
	err := filepath.WalkDir(filepath.Join(w.dir, base), func(full string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		p, _ := filepath.Rel(w.dir, full)
		got, err := os.ReadFile(full)
		if err == nil && strings.HasPrefix(string(got), "guest") && !strings.Contains(p, ".sbx-undo-") {
			return fmt.Errorf("%s is still the guest's: %q; %+v", p, got, report)
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

// A size set by the number of another open file is not that file's: its old content would be lost.
func TestSizeByAnothersNumberIsRefused(t *testing.T) {
	w, dir := journaled(t)
	w.write(t, filepath.Join(w.dir, "theirs"), "the host's")
	w.write(t, filepath.Join(w.dir, "other"), "x")
	h, err := w.openToWrite(w.dirNode("theirs"), 0)
	w.check(err)
	_, err = w.fuse(4, w.dirNode("other"), words(1<<3|1<<6, 0), pack(h, 0, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
	w.want("another's number", err, unix.EBADF)
	_, err = w.fuse(4, w.dirNode("theirs"), words(1<<3|1<<6, 0), pack(h, 0, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
	w.check(err)
	w.holds("theirs", "")
	w.undo(t, dir)
	w.holds("theirs", "the host's")
}
