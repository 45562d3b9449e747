package virtiofs

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/virtiofs/nudge"
)

// told collects the paths of changes until it has want, and gives them all.
func told(t *testing.T, changes <-chan []Change, want ...string) []string {
	t.Helper()
	var got []string
	limit := time.After(10 * time.Second)
	for !containsAll(got, want) {
		select {
		case list := <-changes:
			for _, c := range list {
				got = append(got, string(c.Path))
			}
		case <-limit:
			t.Fatalf("told of %q, want %q", got, want)
		}
	}
	return got
}

func containsAll(list, want []string) bool {
	return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(list, w) })
}

// newWatched is a world whose changes are told.
func newWatched(t *testing.T) (*world, <-chan []Change) {
	t.Helper()
	changes := make(chan []Change, 64)
	var with = peer{changed: func(list []Change) { changes <- list }}
	w := newWorldServed(t, func(c *Config) { c.Journal = t.TempDir() }, func(ctx context.Context, conn *net.UnixConn, cfg Config) error {
		return serve(ctx, conn, cfg, discard(), with)
	})
	w.write(t, filepath.Join(w.dir, "first"), "x") // the watch may not be up yet: written until it is told of
	for {
		select {
		case <-changes:
			return w, changes
		case <-time.After(100 * time.Millisecond):
			w.write(t, filepath.Join(w.dir, "first"), time.Now().String())
		}
	}
}

// A guest that writes without a pause, more than is told at once, does not keep the host's changes from being told.
func TestChangesOfTheHostAreToldBesideABusyGuest(t *testing.T) {
	w, changes := newWatched(t)
	w.write(t, filepath.Join(w.dir, "edited"), "x")
	told(t, changes, "edited")
	limit := time.After(10 * time.Second)
	for i, times := 0, 0; times < 5; i++ {
		w.guestWrite(fmt.Sprint("busy", i%(2*maxChanges)), "x")
		if i%1000 == 0 {
			w.write(t, filepath.Join(w.dir, "edited"), fmt.Sprint(i))
		}
		select {
		case list := <-changes:
			if slices.ContainsFunc(list, func(c Change) bool { return string(c.Path) == "edited" }) {
				times++
			}
		case <-limit:
			t.Fatalf("told %d times beside %d writes of the guest's", times, i)
		default:
		}
	}
}

// The host's changes are told, the guest's own are not, folders that come later are watched too.
func TestChangesOfTheHostAreTold(t *testing.T) {
	w, changes := newWatched(t)
	w.write(t, filepath.Join(w.dir, "sub/deep/f"), "x")
	told(t, changes, "sub")
	w.write(t, filepath.Join(w.dir, "node_modules/x"), "x")
	w.guestWrite("guests", "x")
	w.guestRemove("guests")
	w.check(os.Remove(filepath.Join(w.dir, "first")))
	w.write(t, filepath.Join(w.dir, "sub/deep/f"), "changed")
	w.write(t, filepath.Join(w.dir, "deploy/p"), "protected")
	got := told(t, changes, "first", "sub/deep/f", "deploy")
	if slices.Contains(got, "guests") || slices.Contains(got, "node_modules/x") {
		t.Errorf("told of %q", got)
	}
}

// A guest that puts a link in a folder's place before the watcher comes to look is not told what happens behind it.
func TestWatcherFollowsNoLink(t *testing.T) {
	w, changes := newWatched(t)
	outside := filepath.Join(t.TempDir(), "outside")
	w.write(t, filepath.Join(outside, "d/f"), "x")
	w.write(t, filepath.Join(w.dir, "m/f"), "x")
	told(t, changes, "m")
	time.Sleep(4 * settleTime) // the watch of m is up
	w.guestWrite("z", "x")     // what comes now is looked at a while later
	w.guestMkdir("m/d")
	w.guestRename("m", "away")
	_, err := w.fuse(6, w.work, name("m", outside))
	w.check(err)
	time.Sleep(6 * settleTime)
	w.write(t, filepath.Join(outside, "d/private"), "x")
	time.Sleep(2 * settleTime)
	w.write(t, filepath.Join(w.dir, "last"), "x")
	for _, path := range told(t, changes, "last") {
		if filepath.Base(path) == "private" {
			t.Errorf("told of %q", path)
		}
	}
}

// A nudge changes nothing on the host, and may stand on what is protected only as a chmod.
func TestNudgeChangesNothing(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "f")
	w.write(t, path, "content")
	w.write(t, filepath.Join(w.dir, "deploy/p"), "x")
	before, err := os.Stat(path)
	w.check(err)
	node := w.dirNode("f")
	_, err = w.setattr(node, 1<<0, 0o644, 0, 0)
	w.check(err)
	out, err := w.fuse(14, node, words(unix.O_WRONLY, 0))
	w.check(err)
	_, err = w.fuse(43, node, out[:8], pack(nudge.Offset, nudge.Length), words(unix.FALLOC_FL_KEEP_SIZE, 0))
	w.check(err)
	after, err := os.Stat(path)
	w.check(err)
	if !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
		t.Errorf("%v became %v", before, after)
	}
	_, err = w.setattr(w.dirNode("deploy", "p"), 1<<0, 0o644, 0, 0)
	w.want("the mode that it has", err, nil)
	_, err = w.setattr(w.dirNode("deploy", "p"), 1<<0, 0o600, 0, 0)
	w.want("another mode", err, unix.EPERM)
}
