package virtiofs

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/virtiofs/share"
)

const (
	// maxWatched bounds the folders that are watched: the kernel's own limit is the user's, for all programs.
	maxWatched = 8192
	// settleTime is how long changes are collected: programs save in several steps.
	settleTime = 50 * time.Millisecond
	// noteTime is how long a change of the guest's may be seen before it is noted as its own.
	noteTime = 2 * time.Millisecond
	// maxChanges bounds what is told at once; of more, the guest's watchers see the first.
	maxChanges = 512
)

// watcher tells of changes that are not the guest's.
type watcher struct {
	tree    *share.Tree
	changes *inotify
	roots   map[string]string // path of the descriptor to export
	full    bool
	log     *slog.Logger
}

// watch tells of the host's changes in the writable exports until ctx ends.
func watch(ctx context.Context, tree *share.Tree, log *slog.Logger, tell func([]Change)) {
	changes, err := newInotify()
	if err != nil {
		log.Warn("changes on the host raise no events in the guest", "error", err)
		return
	}
	defer changes.close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		changes.end()
	}()
	w := &watcher{tree: tree, changes: changes, roots: map[string]string{}, log: log}
	for export, root := range tree.Roots() {
		w.roots[root] = export
		w.add(root, ".")
	}
	w.run(ctx, tell)
	if ctx.Err() == nil {
		log.Warn("changes on the host raise no events in the guest any more: inotify failed")
	}
	<-ended
}

// skipped folders hold what no watcher looks at, and much of it.
func skipped(name string) bool { return name == "node_modules" || name == ".git" || name == ".hg" }

// add watches a folder of an export and those below it. What fails is gone, or another's. A watch is made by a path,
// which a guest could bend in between: the tree holds its names still for each.
func (w *watcher) add(root, rel string) {
	folder, err := w.tree.Still(w.roots[root], rel, func() error { return w.addOne(root, rel) })
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

func (w *watcher) addOne(root, rel string) error {
	err := error(unix.ENOSPC)
	if !w.full && len(w.changes.folders) < maxWatched {
		err = w.changes.add(root, rel)
	}
	if errors.Is(err, unix.ENOSPC) && !w.full {
		w.full = true
		w.log.Warn("not all folders are watched: changes on the host raise no events in the guest there", "watched", len(w.changes.folders))
	}
	return err
}

// run lets changes gather in the kernel for a while before it looks at them: each of the guest's is one too.
func (w *watcher) run(ctx context.Context, tell func([]Change)) {
	for changed := map[string]bool{}; w.changes.wait() && pause(ctx, settleTime); clear(changed) {
		for _, c := range w.changes.take() {
			w.note(c, changed)
		}
		if len(changed) == 0 {
			continue
		}
		if !pause(ctx, noteTime) {
			return
		}
		if list := w.hosts(changed); len(list) > 0 {
			tell(list)
		}
	}
}

// pause is false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (w *watcher) note(c change, changed map[string]bool) {
	if c.folder && c.came && !skipped(filepath.Base(c.path)) {
		w.addNew(filepath.Clean(c.path))
	}
	if _, guests := w.place(c.path); len(changed) < maxChanges && !guests {
		changed[c.path] = true
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
