package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rig is a workspace whose journal a guest's changes are told to, as the file server tells them.
type rig struct {
	*testing.T
	dir, work string
	root      *os.Root
	w         *Writer
}

func newRig(t *testing.T, limits Limits) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir(), work: t.TempDir()}
	var err error
	r.w, err = Open(r.dir, limits, "up", slog.New(slog.DiscardHandler))
	r.check(err)
	r.root, err = os.OpenRoot(r.work)
	r.check(err)
	t.Cleanup(func() { r.root.Close(); r.w.Close() })
	return r
}

func (r *rig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) write(name, content string) {
	r.Helper()
	full := filepath.Join(r.work, name)
	r.check(os.MkdirAll(filepath.Dir(full), 0o755))
	r.check(os.WriteFile(full, []byte(content), 0o644))
}

// guest makes a change at a path, between two looks of the journal.
func (r *rig) guest(name string, change func(full string) error) {
	r.Helper()
	k := r.w.Keeper("work")
	k.KeepBefore(r.root, name)
	r.check(change(filepath.Join(r.work, name)))
	k.KeepAfter(r.root, name)
}

func (r *rig) guestWrite(name, content string) {
	r.Helper()
	r.guest(name, func(full string) error { return os.WriteFile(full, []byte(content), 0o644) })
}

func (r *rig) guestRemove(names ...string) {
	r.Helper()
	for _, name := range names {
		r.guest(name, os.Remove)
	}
}

func (r *rig) undoer(id int) *Undoer {
	r.Helper()
	h, err := Read(r.dir, "work", id)
	r.check(err)
	return &Undoer{History: h, Root: r.root, Checkpoint: id}
}

func (r *rig) read(name string) string {
	data, err := os.ReadFile(filepath.Join(r.work, name))
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

func (r *rig) want(contents map[string]string) {
	r.Helper()
	for name, want := range contents {
		if got := r.read(name); got != want {
			r.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

// files are all names below the workspace.
func (r *rig) files() (out []string) {
	filepath.WalkDir(r.work, func(p string, _ os.DirEntry, err error) error { //nolint:errcheck // it is there
		if err == nil && p != r.work {
			rel, _ := filepath.Rel(r.work, p)
			out = append(out, rel)
		}
		return err
	})
	return out
}

// TestUndoOfAPathGoesThroughNoLink: a guest that puts a link to a protected folder where a file's folder was has the
// old file written there, if somebody takes back that file alone.
func TestUndoOfAPathGoesThroughNoLink(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("d/post-checkout", "evil")
	r.write(".git/hooks/README", "the user's")
	r.guestRemove("d/post-checkout", "d")
	r.guest("d", func(full string) error { return os.Symlink(".git/hooks", full) })
	report := r.undoer(1).Undo([]string{"d/post-checkout"})
	if got := r.read(".git/hooks/post-checkout"); got == "evil" {
		t.Errorf("written through the link: %+v", report)
	}
	r.want(map[string]string{"d/post-checkout": "evil"})

	// The same by a guest that is at work while the undo is.
	for _, when := range []string{"staged", "taken"} {
		r := newRig(t, Limits{})
		r.write("d/post-checkout", "evil")
		r.write(".git/hooks/README", "the user's")
		r.guestWrite("d/post-checkout", "x")
		u := r.undoer(1)
		u.fail = func(step string) error {
			if step != when {
				return nil
			}
			r.check(os.Rename(filepath.Join(r.work, "d"), filepath.Join(r.work, "away")))
			return os.Symlink(".git/hooks", filepath.Join(r.work, "d"))
		}
		u.Undo(nil)
		if entries, err := os.ReadDir(filepath.Join(r.work, ".git/hooks")); err != nil || len(entries) != 1 {
			t.Errorf("%s: %v, %v", when, entries, err)
		}
	}
}

// TestUndoBehindALinkOfTheUsers: what the user put in a folder's place is not followed either.
func TestUndoBehindALinkOfTheUsers(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("d/x", "old")
	r.write("other/y", "y")
	r.guestRemove("d/x", "d")
	r.check(os.Symlink("other", filepath.Join(r.work, "d")))
	report := r.undoer(1).Undo(nil)
	if len(report.Missing) != 1 || report.Missing[0].Path != "d/x" {
		t.Errorf("%+v", report)
	}
	if entries, _ := os.ReadDir(filepath.Join(r.work, "other")); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

// TestUndoToAnOlderCheckpoint: what the guest left at one checkpoint and changed at the next is not the user's.
func TestUndoToAnOlderCheckpoint(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("f", "host's")
	r.write("mine", "host's")
	r.guestWrite("f", "first")
	r.guestWrite("mine", "first")
	r.guestWrite("made", "first")
	_, err := r.w.Checkpoint("second")
	r.check(err)
	r.write("mine", "host's second")
	r.guestWrite("f", "second")
	r.guestWrite("mine", "second")
	r.guestWrite("made", "second")
	r.check(r.w.Close()) // and another process goes on
	r.w, err = Open(r.dir, Limits{}, "third", slog.New(slog.DiscardHandler))
	r.check(err)
	r.guestWrite("f", "third")
	r.guestWrite("made", "third")
	r.undoer(1).Undo(nil)
	r.want(map[string]string{"f": "host's", "mine": "host's second"})
	if slices.Contains(r.files(), "made") {
		t.Error("what the guest made is there")
	}
}

// TestUndoAgainOverwritesNoEdit: the version beside is the user's once he changed it.
func TestUndoAgainOverwritesNoEdit(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("f", "old")
	r.guestWrite("f", "guest's")
	r.write("f", "the user's own")
	for range 2 {
		report := r.undoer(1).Undo(nil)
		if len(report.Conflicts) != 1 || report.Beside["f"] != Beside("f", 1) {
			t.Errorf("%+v", report)
		}
	}
	r.write(Beside("f", 1), "merged by hand")
	report := r.undoer(1).Undo(nil)
	r.want(map[string]string{Beside("f", 1): "merged by hand", report.Beside["f"]: "old", "f": "the user's own"})
}

// TestUndoOfLongNames: neither what is staged nor what is put beside has a longer name than there may be.
func TestUndoOfLongNames(t *testing.T) {
	r := newRig(t, Limits{})
	plain, both := strings.Repeat("n", 255), strings.Repeat("b", 255)
	r.write(plain, "old")
	r.write(both, "old")
	r.guestWrite(plain, "guest's")
	r.guestWrite(both, "guest's")
	r.write(both, "the user's own")
	report := r.undoer(1).Undo(nil)
	if len(report.Missing) > 0 {
		t.Errorf("%+v", report)
	}
	r.want(map[string]string{plain: "old", both: "the user's own", report.Beside[both]: "old"})
}

// TestUndoIsNotBlockedByNames: what a guest, or an undo that died, calls its files keeps nothing from being put back.
func TestUndoIsNotBlockedByNames(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("f", "old")
	r.write("f.sbx-undo", "of the guest's, of an earlier checkpoint")
	r.guestWrite("f", "guest's")
	r.undoer(1).Undo(nil)
	r.want(map[string]string{"f": "old", "f.sbx-undo": "of the guest's, of an earlier checkpoint"})
}

// TestEditDuringUndo: the user saves a file at the very moment in which it is put back, or taken away.
func TestEditDuringUndo(t *testing.T) {
	for _, when := range []string{"staged", "take", "exchanged", "taken"} {
		t.Run(when, func(t *testing.T) {
			r := newRig(t, Limits{})
			r.write("f", "old")
			r.guestWrite("f", "guest's")
			r.guestWrite("made", "guest's")
			u := r.undoer(1)
			edited := false
			u.fail = func(step string) error {
				if step != when || edited {
					return nil
				}
				edited = true
				target := map[string]string{"staged": "f", "take": "made"}[step]
				if target == "" { // a program that still has the old file open
					left, _ := filepath.Glob(filepath.Join(r.work, temporary+"*"))
					target, _ = filepath.Rel(r.work, left[0])
				}
				r.write(target, "an edit just now")
				return nil
			}
			report := u.Undo(nil)
			found := false
			for _, p := range r.files() {
				found = found || r.read(p) == "an edit just now"
			}
			if !edited || !found {
				t.Errorf("edited %v, %q; %+v", edited, r.files(), report)
			}
		})
	}
}

// TestUndoDiesAtEveryStep: nothing is lost, and the next one finishes.
func TestUndoDiesAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		r := newRig(t, Limits{})
		r.write("a", "old a")
		r.write("d/b", "old b")
		r.write("folder/x", "old x")
		r.write("file", "old file")
		r.check(os.Symlink("a", filepath.Join(r.work, "l")))
		before := r.files()
		r.guestWrite("a", "guest's")
		r.guestWrite("made", "guest's")
		r.guestRemove("d/b", "d", "folder/x", "folder", "l", "file")
		r.guestWrite("folder", "is a file")
		r.guest("file", func(full string) error { return os.Mkdir(full, 0o755) })
		r.guestWrite("file/in it", "guest's")
		r.write("edited", "the user's")
		u := r.undoer(1)
		left := step
		u.fail = func(string) error {
			if left--; left <= 0 {
				return errDied
			}
			return nil
		}
		u.Undo(nil)
		report := r.undoer(1).Undo(nil)
		r.want(map[string]string{"a": "old a", "d/b": "old b", "folder/x": "old x", "file": "old file", "l": "old a", "edited": "the user's"})
		want := append(before, "edited")
		slices.Sort(want)
		if got := r.files(); !slices.Equal(got, want) || len(report.Missing) > 0 {
			t.Errorf("step %d: %q, want %q; %+v", step, got, want, report)
		}
		if left > 0 {
			if step < 8 {
				t.Errorf("only %d steps", step)
			}
			return
		}
	}
}

// TestUndoWithAFullJournal: what an undo keeps does not drive out what it is about to put back.
func TestUndoWithAFullJournal(t *testing.T) {
	limits := Limits{File: 1000, Total: 1000}
	r := newRig(t, limits)
	for i := range 9 {
		r.write(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 100))
		r.guestWrite(fmt.Sprint(i), strings.Repeat("g", 100+i))
	}
	_, err := r.w.Checkpoint("before undo to 1")
	r.check(err)
	u := r.undoer(1)
	back, err := OpenUndo(r.dir, limits, "undo", slog.New(slog.DiscardHandler))
	r.check(err)
	defer back.Close()
	u.Keeper = back.Keeper("work")
	report := u.Undo(nil)
	for i := range 9 {
		r.want(map[string]string{fmt.Sprint(i): strings.Repeat(fmt.Sprint(i), 100)})
	}
	if len(report.Missing) > 0 {
		t.Errorf("%+v", report)
	}
}

// TestLargerThanTheLimit: what was not kept is said, and left as it is.
func TestLargerThanTheLimit(t *testing.T) {
	r := newRig(t, Limits{File: 10})
	r.write("large", "more than ten bytes")
	r.guestWrite("large", "guest's")
	changes, err := r.undoer(1).History.Changes(r.root)
	r.check(err)
	if len(changes) != 1 || !strings.Contains(changes[0].Lost, "more than 10") {
		t.Errorf("%+v", changes)
	}
	report := r.undoer(1).Undo(nil)
	if len(report.Missing) != 1 || !strings.Contains(report.Missing[0].Why, "more than 10") {
		t.Errorf("%+v", report)
	}
	r.want(map[string]string{"large": "guest's"})
}

// TestUndoOfHardLinks: all names of a file lead to what it was, and to the same file.
func TestUndoOfHardLinks(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("a", "old content")
	r.check(os.Link(filepath.Join(r.work, "a"), filepath.Join(r.work, "b")))
	r.guestWrite("a", "guest's")
	report := r.undoer(1).Undo(nil)
	r.want(map[string]string{"a": "old content", "b": "old content"})
	var a, b unix.Stat_t
	if errors.Join(unix.Stat(filepath.Join(r.work, "a"), &a), unix.Stat(filepath.Join(r.work, "b"), &b)) != nil || a.Ino != b.Ino {
		t.Errorf("%d and %d; %+v", a.Ino, b.Ino, report)
	}
}

// TestEndlessChangesCanBeTakenBack: a guest that makes and removes the same file all day neither fills the disk nor
// makes the journal unreadable.
func TestEndlessChangesCanBeTakenBack(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("f", "old")
	r.guestWrite("f", "guest's")
	r.guestWrite("busy", "1")
	r.w.shrink = 64 << 10
	folder, err := os.Open(r.work)
	r.check(err)
	defer folder.Close()
	for range 3000 {
		r.w.After(Place{"work", "busy"}, Source{int(folder.Fd()), "busy"})
		r.w.shrink = min(r.w.shrink, 64<<10)
	}
	info, err := os.Stat(filepath.Join(r.dir, name(1), logFile))
	r.check(err)
	if info.Size() > 128<<10 {
		t.Errorf("the log has %d bytes", info.Size())
	}
	report := r.undoer(1).Undo(nil)
	if want := []string{"f"}; !slices.Equal(r.files(), want) || r.read("f") != "old" {
		t.Errorf("%q, %+v", r.files(), report)
	}
}

// TestProtectedPathsAreNamed: where undo does not write, it says so.
func TestProtectedPathsAreNamed(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("sbx.yaml", "old")
	r.write("conf", "harmless")
	r.write("evil", "pager = evil")
	for _, p := range []string{"sbx.yaml", "conf", "evil"} {
		r.guestWrite(p, "guest's")
	}
	u := r.undoer(1)
	u.Skip = func(p string) bool { return p == "sbx.yaml" }
	u.Vet = func(p string) func(now, kept []byte) error {
		return map[string]func(now, kept []byte) error{"conf": checkEvil, "evil": checkEvil}[p]
	}
	report := u.Undo(nil)
	r.want(map[string]string{"sbx.yaml": "guest's", "conf": "harmless", "evil": "guest's", report.Beside["evil"]: "pager = evil"})
	if len(report.Missing) != 2 {
		t.Errorf("%+v", report)
	}
}

func checkEvil(_, kept []byte) error {
	if strings.Contains(string(kept), "evil") {
		return errors.New("it makes git run a program")
	}
	return nil
}

// TestGuestFillsTheJournal: with versions of its own files a guest takes no room from what is the user's.
func TestGuestFillsTheJournal(t *testing.T) {
	r := newRig(t, Limits{File: 500, Total: 1000})
	for i := range 5 {
		r.guestWrite(fmt.Sprint("big", i), strings.Repeat("1", 300))
	}
	r.write("mine", strings.Repeat("m", 400))
	id, err := r.w.Checkpoint("run")
	r.check(err)
	for i := range 5 {
		r.guestWrite(fmt.Sprint("big", i), strings.Repeat("2", 301))
	}
	r.guestRemove("mine")
	report := r.undoer(id).Undo(nil)
	if r.want(map[string]string{"mine": strings.Repeat("m", 400)}); len(report.Missing) == 0 {
		t.Errorf("that the guest's own is not kept is not said: %+v", report)
	}
}

// TestClosedFilesAreKept: a guest that takes the right to read from a file before it removes it.
func TestClosedFilesAreKept(t *testing.T) {
	if os.Geteuid() == 0 { // who may read all
		dir, err := os.MkdirTemp("", "nobody") // t.TempDir is below a folder of root's own
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("as an ordinary user: %v\n%s", err, out)
		}
		return
	}
	r := newRig(t, Limits{})
	r.write("f", "the user's")
	r.write("d/x", "the user's")
	r.check(os.Chmod(filepath.Join(r.work, "f"), 0))
	r.guestRemove("f", "d/x")
	r.check(os.Chmod(filepath.Join(r.work, "d"), 0o555))
	report := r.undoer(1).Undo([]string{"f"})
	r.check(os.Chmod(filepath.Join(r.work, "f"), 0o600))
	if r.want(map[string]string{"f": "the user's"}); len(report.Missing) > 0 {
		t.Errorf("%+v", report)
	}
	r.check(os.Chmod(filepath.Join(r.work, "d"), 0o755))
	r.guest("made", func(full string) error { return os.Mkdir(full, 0o755) })
	r.guestWrite("made/x", "the guest's")
	r.guest("made", func(full string) error { return os.Chmod(full, 0o500) })
	r.undoer(1).Undo(nil)
	if slices.Contains(r.files(), "made") {
		t.Errorf("%q", r.files())
	}
}

// TestUndoLeavesFoldersOfTheUsers: one that the user made where the guest removed its own is not the guest's.
func TestUndoLeavesFoldersOfTheUsers(t *testing.T) {
	r := newRig(t, Limits{})
	r.guest("d", func(full string) error { return os.Mkdir(full, 0o755) })
	r.guestRemove("d")
	r.check(os.Mkdir(filepath.Join(r.work, "d"), 0o755))
	report := r.undoer(1).Undo(nil)
	if len(r.files()) != 1 || len(report.Kept) != 1 {
		t.Errorf("%q, %+v", r.files(), report)
	}
}
