package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fullDisk is a log on a disk that has room for so many bytes.
type fullDisk struct {
	*os.File
	room int
}

func (f *fullDisk) Write(b []byte) (int, error) {
	fits := min(f.room, len(b))
	n, err := f.File.Write(b[:fits])
	f.room -= n
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	return n, err
}

// TestFullDisk: what was recorded before the disk was full and what is recorded when there is room again can be read.
func TestFullDisk(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	w, err := Open(dir, Limits{}, "up", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	disk := &fullDisk{File: w.file.(*os.File), room: 1 << 20}
	w.file = disk
	folder, err := os.Open(work)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	change := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, name), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := w.Before(Place{"work", name}, Source{int(folder.Fd()), name})
		if full := name == "lost"; full != errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
	change("first")
	for _, room := range []int{40, 0, 1} { // half a record, none, and a byte
		disk.room = room
		change("lost")
		w.After(Place{"work", "lost"}, Source{int(folder.Fd()), "lost"})
	}
	disk.room = 1 << 20
	change("last")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := Read(dir, "work", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "last"} {
		if !slices.Contains(h.paths(nil), name) {
			t.Errorf("%s is not in the journal: %q", name, h.paths(nil))
		}
	}
}

// TestOtherFaultsAreSaid: what is not kept for another reason than a full disk may be changed all the same.
func TestOtherFaultsAreSaid(t *testing.T) {
	r := newRig(t, Limits{})
	r.write("mine", "the user's")
	r.check(os.Remove(filepath.Join(r.dir, name(1), dataDir)))
	r.guestWrite("mine", "the guest's")
	if report := r.undoer(1).Undo(nil); len(report.Missing) != 1 {
		t.Errorf("%+v", report)
	}
	for _, is := range []error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE} {
		if !noRoom(&os.PathError{Op: "write", Path: "data", Err: is}) {
			t.Errorf("%v is not taken for a full disk", is)
		}
	}
}

// TestLazy: what was the user's is in the log before the change; what the guest made waits for Flush, and is not lost by
// a checkpoint, a full disk or the end.
func TestLazy(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	w, err := Open(dir, Limits{}, "up", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Lazily()
	folder, err := os.Open(work)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	records := func(id string) int {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, id, "log"))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	made := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.Made(Place{"work", name}, Source{int(folder.Fd()), name}, nil)
	}
	expect := func(id string, want int) {
		t.Helper()
		if got := records(id); got != want {
			t.Errorf("checkpoint %s has %d records, want %d", id, got, want)
		}
	}
	made("one")
	expect("000001", 0)
	w.Flush()
	expect("000001", 2)
	made("two")
	if err := os.WriteFile(filepath.Join(work, "user's"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Before(Place{"work", "user's"}, Source{int(folder.Fd()), "user's"}); err != nil {
		t.Fatal(err)
	}
	expect("000001", 5)
	made("three")
	if _, err := w.Checkpoint("next"); err != nil {
		t.Fatal(err)
	}
	expect("000001", 7)
	disk := &fullDisk{File: w.file.(*os.File)}
	w.file = disk
	made("four")
	w.Flush()
	disk.room = 1 << 20
	w.Flush()
	expect("000002", 2)
	for i := range maxLater {
		made(fmt.Sprint("many", i))
	}
	if got := records("000002"); got < maxLater {
		t.Errorf("%d records after %d that waited", got, 2*maxLater)
	}
	made("last")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	expect("000002", 4+2*maxLater)
}
