package virtiofs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sbx-vm/sbx/sync/virtiofs/share"
)

const (
	// maxWatched bounds the folders that are watched: the kernel's own limit is the user's, for all programs.
	maxWatched = 8192
	// settleTime is how long changes are collected: programs save in several steps.
	settleTime = 50 * time.Millisecond
	// busyTime is settleTime while changes come without a pause: mostly the guest's own, each of which would wake us
	// where the guest waits for the processor.
	busyTime = 400 * time.Millisecond
	// quietTime without an event is the end of what had gathered.
	quietTime = 2 * time.Millisecond
	// maxChanges bounds what is told at once; of more, the guest's watchers see the first.
	maxChanges = 512
)

// watcher tells of changes that are not the guest's.
type watcher struct {
	tree    *share.Tree
	watches *fsnotify.Watcher
	roots   map[string]string // path of the descriptor to export
	full    bool
	log     *slog.Logger
}

// watch tells of the host's changes in the writable exports until ctx ends.
func watch(ctx context.Context, tree *share.Tree, log *slog.Logger, tell func([]Change)) {
	watches, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("changes on the host raise no events in the guest", "error", err)
		return
	}
	defer watches.Close()
	w := &watcher{tree: tree, watches: watches, roots: map[string]string{}, log: log}
	for export, root := range tree.Roots() {
		w.roots[root] = export
		w.add(root, ".")
	}
	w.run(ctx, tell)
}

// skipped folders hold what no watcher looks at, and much of it.
func skipped(name string) bool { return name == "node_modules" || name == ".git" || name == ".hg" }

// add watches a folder of an export and those below it. What fails is gone, or another's. A watch is made by a path,
// which a guest could bend in between: the tree holds its names still for each.
func (w *watcher) add(root, rel string) {
	folder, err := w.tree.Still(w.roots[root], rel, func() error { return w.addOne(filepath.Join(root, rel)) })
	if err != nil {
		return
	}
	entries, err := folder.ReadDir(-1)
	folder.Close()
	if err != nil {
		w.log.Debug("watch", "error", err)
	}
	for _, e := range entries {
		if e.IsDir() && !skipped(e.Name()) && !w.full {
			w.add(root, filepath.Join(rel, e.Name()))
		}
	}
}

func (w *watcher) addOne(path string) error {
	err := syscall.ENOSPC
	if !w.full && len(w.watches.WatchList()) < maxWatched && w.watches.Add(path) == nil {
		return nil
	}
	if !w.full {
		w.log.Warn("not all folders are watched: changes on the host raise no events in the guest there", "watched", len(w.watches.WatchList()))
	}
	w.full = true
	return err
}

// run lets events gather in the kernel for a while before it looks at them: each change of the guest's is an event
// too, and to wake for each one costs more than to serve the guest.
func (w *watcher) run(ctx context.Context, tell func([]Change)) {
	changed, wait := map[string]bool{}, settleTime
	for w.next(ctx, nil, changed) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if wait = settleTime; !w.gather(ctx, changed) {
			wait = busyTime
		}
		if list := w.hosts(changed); len(list) > 0 {
			tell(list)
		}
		clear(changed)
	}
}

// gather takes what had gathered. It is false if changes come without a pause.
func (w *watcher) gather(ctx context.Context, changed map[string]bool) bool {
	for end := time.Now().Add(settleTime); time.Now().Before(end); {
		if !w.next(ctx, time.After(quietTime), changed) {
			return true
		}
	}
	return false
}

// next takes one event. It is false when none came until quiet, or none will.
func (w *watcher) next(ctx context.Context, quiet <-chan time.Time, changed map[string]bool) bool {
	select {
	case <-ctx.Done():
		return false
	case <-quiet:
		return false
	case e, ok := <-w.watches.Events:
		if ok {
			w.note(e, changed)
		}
		return ok
	case _, ok := <-w.watches.Errors: // an overflow: the next change is told of again
		return ok
	}
}

func (w *watcher) note(e fsnotify.Event, changed map[string]bool) {
	if e.Op == fsnotify.Chmod {
		return
	}
	if e.Has(fsnotify.Create) {
		if info, err := os.Lstat(e.Name); err == nil && info.IsDir() && !skipped(filepath.Base(e.Name)) {
			w.addNew(filepath.Clean(e.Name))
		}
	}
	if _, guests := w.place(e.Name); len(changed) < maxChanges && !guests {
		changed[e.Name] = true
	}
}

func (w *watcher) addNew(name string) {
	for root := range w.roots {
		if rel, ok := strings.CutPrefix(name, root+"/"); ok {
			w.add(root, rel)
		}
	}
}

// place finds what a name stands for, nothing for what is in no export, and tells whether the guest changed it a moment ago.
func (w *watcher) place(name string) (c Change, guests bool) {
	for root, export := range w.roots {
		if rel, ok := strings.CutPrefix(filepath.Clean(name), root+"/"); ok {
			return Change{Export: export, Path: []byte(rel)}, w.tree.Recent(export, rel)
		}
	}
	return Change{}, false
}

// hosts leaves out what the guest did itself; some of that is known only now.
func (w *watcher) hosts(changed map[string]bool) []Change {
	var out []Change
	for name := range changed {
		c, guests := w.place(name)
		if c.Export == "" || guests {
			continue
		}
		c.Plain = w.tree.Plain(c.Export, string(c.Path))
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return out
}
