package share

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// place is where a node is below its export's root now, as components. A folder's is remembered for a moment.
func (t *Tree) place(n *node) ([]string, error) {
	now, moves := time.Since(t.started), t.moves.Load()
	if p := n.remembered(now, moves); p != nil {
		return p.parts[:len(p.parts):len(p.parts)], nil
	}
	return t.findPlace(n, now)
}

// folderPlace is place for a folder, with what guard says of it.
func (t *Tree) folderPlace(dir *node) (*placed, error) {
	now, moves := time.Since(t.started), t.moves.Load()
	if p := dir.remembered(now, moves); p != nil {
		return p, nil
	}
	parts, err := t.findPlace(dir, now)
	if err != nil {
		return nil, err
	}
	p := &placed{parts, t.opts.Guard.Folder(parts), moves, now}
	dir.placed.Store(p)
	return p, nil
}

// placed is where a folder was.
type placed struct {
	parts []string
	guard guard.Folder
	moves uint64        // of the guest's until then, as the tree counts them
	at    time.Duration // since the tree was opened
}

// remembered is where a folder was a moment ago, nil if that does not count any more.
func (n *node) remembered(now time.Duration, moves uint64) *placed {
	if p := n.placed.Load(); p != nil && p.moves == moves && now-p.at <= placedFor {
		return p
	}
	return nil
}

// placedFor is how long a folder counts as where it was, unless the guest moves one; in one that was removed nothing is
// done. To ask for each request costs as much as some requests do. Within that time only the host's user can move it, with
// all that the guest could have written in it before.
const placedFor = 20 * time.Millisecond

func (t *Tree) findPlace(n *node, now time.Duration) ([]string, error) {
	path, err := t.readLink(n.fd)
	if err != nil {
		return nil, err
	}
	parts, ok := placeBelow(n.export.root.Load(), path)
	if !ok || now-n.export.root.Load().at > placedFor {
		if err := t.findRoot(n.export); err != nil {
			return nil, err
		}
		if parts, ok = placeBelow(n.export.root.Load(), path); !ok {
			return nil, unix.EPERM // the host's user moved it out of the export
		}
	}
	return parts, nil
}

// root is where an export's folder was.
type root struct {
	path string
	at   time.Duration // since the tree was opened
}

func (t *Tree) findRoot(e *export) error {
	at := time.Since(t.started)
	path, err := t.readLink(e.fd)
	if err == nil {
		e.root.Store(&root{path, at})
	}
	return err
}

func placeBelow(r *root, path string) ([]string, bool) {
	if path == r.path {
		return nil, true
	}
	below, ok := strings.CutPrefix(path, strings.TrimSuffix(r.path, "/")+"/")
	if !ok {
		return nil, false
	}
	return strings.Split(below, "/"), true
}

func (t *Tree) readLink(fd int) (string, error) {
	var short [512]byte // enough for most, and cleared sooner
	n, err := unix.Readlinkat(t.self, (&node{fd: fd}).link(), short[:])
	if err == nil && n < len(short) {
		return string(short[:n]), nil
	}
	long := make([]byte, unix.PathMax)
	if n, err = unix.Readlinkat(t.self, (&node{fd: fd}).link(), long); err != nil {
		return "", err
	}
	return string(long[:n]), nil
}

// mayChange tells whether the guest may change a node's content or attributes, and where it is. The
// caller holds names.
func (t *Tree) mayChange(n *node) (parts []string, s fuse.Status) {
	if n.export.ReadOnly {
		return nil, fuse.EROFS
	}
	if n.masked.Load() {
		return nil, t.refuseMasked(n)
	}
	parts, err := t.place(n)
	if err != nil {
		return nil, status(err)
	}
	return parts, t.mayChangeAt(n, parts)
}

// mayChangeAt is mayChange for a node whose place is known and that is neither masked nor read-only.
func (t *Tree) mayChangeAt(n *node, parts []string) fuse.Status {
	if n.is(unix.S_IFREG) && guard.PointerAt(parts) != guard.NoPointer {
		return t.refuse("change of a file that leads git elsewhere refused", n.export, parts)
	}
	if guard.IsLock(parts) {
		if st, err := stat(n.fd); err != nil || t.others(n.export, st) {
			return t.refuse(locked, n.export, parts)
		}
	}
	return t.allow(n.export, parts)
}

const locked = "change of a lock that the guest did not make refused"

func (t *Tree) allow(e *export, parts []string) fuse.Status {
	if t.opts.Guard.Protected(parts) {
		return t.refuse("write to a protected path refused", e, parts)
	}
	return fuse.OK
}

func (t *Tree) refuse(why string, e *export, parts []string) fuse.Status {
	if leftOut, ok := t.refusals.allow(time.Now()); ok {
		t.opts.Log.Warn(why, "export", e.Name, "path", filepath.Join(parts...), "left_out", leftOut)
	}
	return fuse.EPERM
}

// spot is the place of a name in a folder.
type spot struct {
	parts    []string
	ordinary bool // there is nothing to ask guard of it, see [guard.Folder.Ordinary]
}

// below is the place of a name in a folder.
func (t *Tree) below(dir *node, name string) (spot, error) {
	p, err := t.folderPlace(dir)
	if err != nil {
		return spot{}, err
	}
	return spot{append(p.parts[:len(p.parts):len(p.parts)], name), p.guard.Ordinary(name)}, nil
}

// mayName tells whether the guest may make or remove a name in a folder. kind is what
// would stand there: on the way to a protected path no link may, and nothing but a
// folder may be called .git, because a file of that name points elsewhere (see mayCreate for those that may).
func (t *Tree) mayName(dir *node, name string, at spot, kind uint32) fuse.Status {
	if dir.export.ReadOnly {
		return fuse.EROFS
	}
	if !at.ordinary {
		if s := t.mayNameGuarded(dir, name, at.parts, kind); s != fuse.OK {
			return s
		}
	}
	return t.mayUnmask(dir, name, at.parts)
}

func (t *Tree) mayNameGuarded(dir *node, name string, parts []string, kind uint32) fuse.Status {
	if s := t.allow(dir.export, parts); s != fuse.OK {
		return s
	}
	if kind == unix.S_IFLNK && len(t.opts.Guard.Leads(parts)) > 0 || kind != unix.S_IFDIR && guard.Match(".git", name) {
		return t.refuse("name on the way to a protected path refused", dir.export, parts)
	}
	if t.othersLock(dir, name, parts) {
		return t.refuse(locked, dir.export, parts)
	}
	return fuse.OK
}

// mayRemove tells whether a name may go. A git configuration below the top goes with
// the clone that the guest made there.
func (t *Tree) mayRemove(dir *node, name string, at spot) fuse.Status {
	switch parts := at.parts; {
	case dir.export.ReadOnly || at.ordinary:
	case len(parts) > 2 && t.opts.Guard.Vetted(parts):
		return t.allow(dir.export, parts[:len(parts)-1])
	case guard.PointerAt(parts) != guard.NoPointer: // it goes with the worktree
		return t.mayPoint(dir, name, parts)
	}
	return t.mayName(dir, name, at, unix.S_IFDIR)
}

// mayMove tells whether what stands at from/old may be moved to to/name, where no link may
// come to stand on the way to a protected path, and no folder that would bring one along or
// take one away.
func (t *Tree) mayMove(from *node, old string, to *node, name string) fuse.Status {
	source, err := t.below(from, old)
	if err != nil {
		return status(err)
	}
	if s := t.mayName(from, old, source, unix.S_IFDIR); s != fuse.OK {
		return s
	}
	kind, err := kindOf(from.fd, old)
	if err != nil {
		return status(err)
	}
	target, err := t.below(to, name)
	if err != nil {
		return status(err)
	}
	if s := t.mayName(to, name, target, kind); s != fuse.OK {
		return s
	}
	if t.masks(to, name) {
		return fuse.EXDEV // what is copied was open to nobody
	}
	if kind == unix.S_IFLNK && guard.InDependencies(source.parts) && !guard.InDependencies(target.parts) {
		return fuse.EXDEV // see Symlink
	}
	if kind != unix.S_IFDIR {
		return fuse.OK
	}
	return t.mayMoveFolder(from, old, source.parts, target.parts)
}

func (t *Tree) mayMoveFolder(from *node, old string, source, target []string) fuse.Status {
	into, outOf := guard.InDependencies(target), guard.InDependencies(source)
	if outOf && !into || (into && !outOf || t.opts.Mask.Clears(target)) && t.hides(from.fd, old, 0, new(int)) {
		return fuse.EXDEV // mv(1) copies then, and each name is looked at
	}
	for _, rest := range t.opts.Mask.Leads(target) {
		if t.holds(from.fd, old, rest[0]) {
			return fuse.EXDEV
		}
	}
	leads := slices.Concat(t.opts.Guard.Leads(source), t.opts.Guard.Leads(target), t.opts.Mask.Leads(source))
	for _, rest := range leads {
		if t.holds(from.fd, old, rest[0]) {
			return t.refuse("move of a protected path's folder refused", from.export, source)
		}
	}
	return fuse.OK
}

// kindOf is the type of what a name stands for.
func kindOf(dir int, name string) (uint32, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st.Mode & unix.S_IFMT, err
}

// holds tells whether a folder has what a component asks for; when it cannot be read,
// it might.
func (t *Tree) holds(dir int, name, component string) bool {
	fd, err := beneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	r := dirReader{fd: fd}
	for {
		e, ok, err := r.next()
		switch {
		case err != nil:
			return true
		case !ok:
			return false
		case e.name != "." && e.name != ".." && guard.Match(component, e.name):
			return true
		}
	}
}
