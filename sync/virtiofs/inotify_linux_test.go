package virtiofs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A folder is told of by the name that it has now, and one that the host's user took out of the export no more.
func TestMovedFoldersAreToldByTheirName(t *testing.T) {
	w, changes := newWatched(t)
	outside := filepath.Join(t.TempDir(), "outside")
	w.write(t, filepath.Join(w.dir, "old/sub/f"), "x")
	w.write(t, filepath.Join(w.dir, "leaves/sub/f"), "x")
	told(t, changes, "old", "leaves")
	time.Sleep(4 * settleTime) // the watches are up
	w.check(os.Rename(filepath.Join(w.dir, "old"), filepath.Join(w.dir, "new")))
	w.check(os.Rename(filepath.Join(w.dir, "leaves"), outside))
	told(t, changes, "new", "leaves")
	time.Sleep(4 * settleTime)
	w.write(t, filepath.Join(outside, "sub/private"), "x")
	w.write(t, filepath.Join(w.dir, "new/sub/f"), "changed")
	w.write(t, filepath.Join(w.dir, "last"), "x")
	for _, path := range told(t, changes, "new/sub/f", "last") {
		if path == "old/sub/f" || filepath.Base(path) == "private" {
			t.Errorf("told of %q", path)
		}
	}
}

// What is asked of the kernel ends with the watcher, at any time.
func TestEndOfAWait(t *testing.T) {
	n, err := newInotify()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	if err := n.add(t.TempDir(), "."); err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool)
	go func() { ended <- n.wait() }()
	n.end()
	if <-ended || n.wait() {
		t.Error("it waited for a change that came")
	}
	if list := n.take(); len(list) > 0 {
		t.Errorf("%v of an empty queue", list)
	}
}
