package virtiofs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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
