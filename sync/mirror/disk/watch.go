//go:build unix

package disk

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Times and bounds of watching.
const (
	settle    = 4 * time.Millisecond  // quiet after which what changed is told
	latest    = 50 * time.Millisecond // told at the latest, however many changes there are
	maxDirty  = 4096                  // more paths than these are everything
	pollEvery = 5 * time.Second       // where the system gives no events
)

// Watch tells of changes below a folder.
type Watch struct {
	// Dirty gives paths at and below which something may have changed; "" is everything. It
	// is closed when the watch ends.
	Dirty <-chan []string

	root    *Root
	watcher *fsnotify.Watcher
	polls   atomic.Bool
}

// Note says why changes are looked for every few seconds instead; "" if they are not.
func (w *Watch) Note() string {
	if !w.polls.Load() {
		return ""
	}
	return "the system's limit of watched folders is reached (fs.inotify.max_user_watches): changes are looked for every 5 seconds"
}

// Watch begins to watch; it ends with ctx. What changed before the first scan after
// it is for that scan to find.
func (r *Root) Watch(ctx context.Context) (*Watch, error) {
	out := make(chan []string)
	w := &Watch{Dirty: out, root: r}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err == nil {
		err = w.add("")
	}
	if exhausted(err) {
		w.polls.Store(true)
	} else if err != nil {
		if w.watcher != nil {
			w.watcher.Close() //nolint:errcheck // it was not used
		}
		return nil, err
	}
	go w.run(ctx, out)
	return w, nil
}

func exhausted(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// add watches a folder and those below it, each before it is read.
func (w *Watch) add(p string) error {
	if err := w.root.fail("watch"); err != nil {
		return err
	}
	dir, err := w.root.folder(p)
	if err != nil {
		return nil //nolint:nilerr // it is gone, or none of ours
	}
	defer dir.Close()
	if err := w.watcher.Add(path.Join(w.root.path, p)); err != nil {
		if exhausted(err) {
			return err
		}
		return nil
	}
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			if below := path.Join(p, e.Name()); e.IsDir() && !w.root.skip(below, true) {
				if err := w.add(below); err != nil {
					return err
				}
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the end, or the scan says why
		}
	}
}

func (w *Watch) run(ctx context.Context, out chan<- []string) {
	defer close(out)
	var events chan fsnotify.Event
	var failures chan error
	if w.watcher != nil {
		defer w.watcher.Close()
		events, failures = w.watcher.Events, w.watcher.Errors
	}
	d := dirty{}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		send, due := d.due(out)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if w.polls.Load() {
				d.add("")
			}
		case e, ok := <-events:
			if !ok {
				return
			}
			w.event(&d, e)
		case _, ok := <-failures: // an overflow, or a folder that is gone
			if !ok {
				return
			}
			d.add("")
		case <-due:
			d.ripe = true
		case send <- d.paths():
			d = dirty{}
		}
	}
}

func (w *Watch) event(d *dirty, e fsnotify.Event) {
	p := strings.TrimPrefix(strings.TrimPrefix(e.Name, w.root.path), "/")
	if p != "" && w.root.skipped(p) {
		return
	}
	if e.Has(fsnotify.Create) {
		if err := w.add(p); err != nil {
			w.polls.Store(true)
			d.add("")
		}
	}
	d.add(p)
}

// dirty collects paths until it is quiet.
type dirty struct {
	set         map[string]bool
	first, last time.Time
	ripe        bool
}

func (d *dirty) add(p string) {
	now := time.Now()
	if d.set == nil {
		d.set, d.first = map[string]bool{}, now
	}
	d.last = now
	if len(d.set) < maxDirty {
		d.set[p] = true
	} else {
		d.set[""] = true
	}
}

// due gives the channel to send on once it is time, and what to wait for before.
func (d *dirty) due(out chan<- []string) (chan<- []string, <-chan time.Time) {
	if d.set == nil {
		return nil, nil
	}
	if d.ripe {
		return out, nil
	}
	now := time.Now()
	wait := min(d.last.Add(settle).Sub(now), d.first.Add(latest).Sub(now))
	return nil, time.After(max(wait, 0))
}

func (d *dirty) paths() []string {
	if d.set[""] {
		return []string{""}
	}
	out := make([]string, 0, len(d.set))
	for p := range d.set {
		out = append(out, p)
	}
	return out
}
