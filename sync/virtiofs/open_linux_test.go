package virtiofs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
