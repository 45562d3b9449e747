package virtiofs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/journal"
)

// TestUndoOfAFileThatIsStillOpen: what the guest wrote is its own, also while it has the file open, and when another guest comes
// instead.
func TestUndoOfAFileThatIsStillOpen(t *testing.T) {
	for name, then := range map[string]func(*world){"open": func(*world) {}, "another guest": func(w *world) { w.init() }} {
		t.Run(name, func(t *testing.T) {
			w, dir := journaled(t)
			there, made := filepath.Join(w.dir, "there"), filepath.Join(w.dir, "made")
			w.write(t, there, "host's")
			node, err := w.node("there")
			w.check(err)
			h, err := w.openToWrite(node, 0)
			w.check(err)
			w.check(w.writeAt(h, "GUEST", 0))
			_, h, err = w.create(w.work, "made", unix.O_WRONLY, 0o100644)
			w.check(err)
			w.check(w.writeAt(h, "GUEST", 0))
			then(w)
			report := w.undo(t, dir)
			if got, err := os.ReadFile(there); err != nil || string(got) != "host's" {
				t.Errorf("%q, %v; %+v", got, err, report)
			}
			if _, err := os.Lstat(made); !os.IsNotExist(err) {
				t.Errorf("what the guest made is there: %v; %+v", err, report)
			}
		})
	}
}

// TestJournalOfAFileThatStaysOpen: of what the guest goes on writing the log on the disk knows soon, for when the server is killed.
func TestJournalOfAFileThatStaysOpen(t *testing.T) {
	w, dir := journaled(t)
	_, h, err := w.create(w.work, "log", unix.O_WRONLY, 0o100644)
	w.check(err)
	root, err := os.OpenRoot(w.dir)
	w.check(err)
	defer root.Close()
	for until := time.Now().Add(20 * time.Second); ; {
		w.check(w.writeAt(h, "x", 0))
		time.Sleep(50 * time.Millisecond)
		kept, err := journal.Read(dir, "work", 1)
		w.check(err)
		changes, err := kept.Changes(root)
		w.check(err)
		if len(changes) == 1 && !changes[0].ByHost {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%+v", changes)
		}
	}
}

// TestFilesThatAreOnlyWritten: they alone are written past the guest's cache; one that can be mapped or read is not.
func TestFilesThatAreOnlyWritten(t *testing.T) {
	w := newWorld(t)
	for i, c := range []struct {
		flags  uint32
		direct bool
	}{{unix.O_WRONLY, true}, {unix.O_WRONLY | unix.O_APPEND, true}, {unix.O_RDWR, false}, {unix.O_RDONLY, false}} {
		file := fmt.Sprint("f", i)
		made, err := w.fuse(35, w.work, words(c.flags, 0o100644, 0, 0), name(file))
		w.check(err)
		node := binary.NativeEndian.Uint64(made)
		opened, err := w.fuse(14, node, words(c.flags, 0))
		w.check(err)
		for what, out := range map[string][]byte{"made": made[128:], "opened": opened} {
			if got := binary.NativeEndian.Uint32(out[8:])&fuse.FOPEN_DIRECT_IO != 0; got != c.direct {
				t.Errorf("flags %#o, %s: direct %v", c.flags, what, got)
			}
		}
	}
}
