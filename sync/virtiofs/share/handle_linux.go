package share

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
)

// handle is an open file or folder of the guest's. The table counts as one holder.
type handle struct {
	fd      int
	export  *export // of a file that may be written to, for the journal
	node    *node   // of such a file, held until it is closed; nil where the guest did not know it any more
	pointer guard.Pointer
	dirty   atomic.Bool  // it was written to and not yet told; set after the journal was told of the write
	held    journal.Held // of a file that is written to
	noted   atomic.Int64 // when its place was last noted as recent, in nanoseconds since 1970
	holders atomic.Int64
	mu      sync.Mutex // a folder's reading place
	dir     *dirReader // nil for files

	takes int64         // of shown, which it gives back
	shown *atomic.Int64 // of the tree; nil if it takes nothing
}

// drop lets go of a handle; the last one closes it.
func (h *handle) drop() {
	if h.holders.Add(-1) > 0 {
		return
	}
	if h.fd >= 0 {
		unix.Close(h.fd)
	}
	if h.shown != nil {
		h.shown.Add(-h.takes)
	}
}

// handle finds one and holds it, nil when the guest made its number up.
func (t *Tree) handle(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.handles[id]
	if h != nil {
		h.holders.Add(1)
	}
	return h
}

// file finds an open file.
func (t *Tree) file(id uint64) *handle {
	h := t.handle(id)
	if h != nil && h.dir != nil {
		h.drop()
		return nil
	}
	return h
}

// addHandle enters an open file or folder, of the node with the number.
func (t *Tree) addHandle(h *handle, node uint64) (uint64, bool) {
	h.holders.Store(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full() {
		return 0, false
	}
	if n := t.nodes[node]; n != nil && h.export != nil {
		n.holders++
		h.node = n
	}
	t.lastID++
	t.handles[t.lastID] = h
	return t.lastID, true
}

// closeHandle closes an open file or folder. What the guest left in a file is noted a moment later, with that in others.
func (t *Tree) closeHandle(id uint64) {
	t.mu.Lock()
	h := t.handles[id]
	delete(t.handles, id)
	noted := h != nil && (!h.dirty.Load() || t.settleLater(h.node))
	t.mu.Unlock()
	if h == nil {
		return
	}
	if !noted {
		t.settle(h)
	}
	t.release(h.node)
	h.drop()
}

// maxClosed bounds the files that are closed and not in the journal yet, and what they hold.
const maxClosed = 128

// settleLater has a file settled with others, unless there are too many; the caller holds mu.
func (t *Tree) settleLater(n *node) bool {
	if n == nil || len(t.closed) >= maxClosed && !t.closed[n] {
		return false
	}
	if !t.closed[n] {
		n.holders++
		t.closed[n] = true
	}
	return true
}

// Settle returns when the journal knows of all that the guest has written, to files that it has open too.
func (t *Tree) Settle() {
	t.settling.Lock() // what another has taken is to be settled too
	defer t.settling.Unlock()
	t.settleClosed()
	t.settleOpen()
}

// settleClosed is for who holds settling.
func (t *Tree) settleClosed() {
	t.mu.Lock()
	list := t.closed
	t.closed = map[*node]bool{}
	t.mu.Unlock()
	for n := range list {
		t.settleFile(n.export, n.fd)
		t.release(n)
	}
}

// settleOpen is for who holds settling.
func (t *Tree) settleOpen() {
	for _, h := range t.dirty() {
		t.settle(h)
		h.drop()
	}
}

// dirty holds the open files that were written to and not yet told.
func (t *Tree) dirty() (list []*handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.handles {
		if h.dirty.Load() {
			h.holders.Add(1)
			list = append(list, h)
		}
	}
	return list
}

// resettle is how often files are settled that the guest writes to and keeps open: what came later is the guest's to
// nobody if this process is killed.
const resettle = time.Second

// FlushJournal writes down what the guest left and what the journal still holds, see [journal.Writer.Lazily].
func (t *Tree) FlushJournal() {
	t.settling.Lock()
	t.settleClosed()
	if now := time.Now(); now.Sub(t.settled) >= resettle {
		t.settled = now
		t.settleOpen()
	}
	t.settling.Unlock()
	t.opts.Journal.Flush()
}

// openFlags that a guest may ask for. O_DIRECT would demand alignment of its memory,
// O_NOATIME ownership. O_APPEND is each write's own, see [Tree.Writev].
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// reopen opens a file or folder for real. A FIFO, socket or device is never opened.
func (t *Tree) reopen(n *node, flags int) (int, error) {
	if !n.is(unix.S_IFREG) && !n.is(unix.S_IFDIR) {
		return -1, unix.ENXIO
	}
	for {
		fd, err := unix.Openat(t.self, n.link(), flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func writes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// Open implements fuse.RawFileSystem.
func (t *Tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := t.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	defer t.release(n)
	return t.open(n, in.Flags, out)
}

func (t *Tree) open(n *node, flags uint32, out *fuse.OpenOut) fuse.Status {
	if !n.is(unix.S_IFREG) {
		return fuse.Status(unix.ENXIO)
	}
	t.names.RLock()
	defer t.names.RUnlock()
	h := &handle{}
	if writes(flags) {
		kind, s := t.mayWrite(n)
		if s != fuse.OK {
			return s
		}
		h.export, h.pointer = n.export, kind
	}
	if flags&unix.O_TRUNC != 0 {
		e := t.fileOf(n.export, n.fd)
		if err := t.before(e); err != nil {
			return status(err)
		}
		defer t.after(e)
	}
	if err := t.openRight(h, n, int(flags&openFlags)); err != nil {
		return status(err)
	}
	return t.opened(h, n.id, flags, out)
}

// openRight opens the file for a handle, or what is left of a masked one.
func (t *Tree) openRight(h *handle, n *node, flags int) (err error) {
	if n.masked.Load() {
		h.shown = &t.shown
		h.fd, h.takes, err = t.openMasked(n)
		return err
	}
	h.fd, err = t.reopen(n, flags)
	return err
}

// opened enters a handle of the node with the number, whose descriptor is open. What the guest opened with flags to write to
// alone it writes past its cache, where nobody would find the pages: each open to read asks for them anew. Its kernel asks for
// no attribute then, whether the file had privileges to take away, which for a new file costs as much as to make it.
func (t *Tree) opened(h *handle, node uint64, flags uint32, out *fuse.OpenOut) fuse.Status {
	id, ok := t.addHandle(h, node)
	if !ok {
		h.drop()
		return fuse.Status(unix.ENFILE)
	}
	out.Fh = id
	if h.export != nil && flags&unix.O_ACCMODE == unix.O_WRONLY {
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

// Create implements fuse.RawFileSystem.
func (t *Tree) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, s := t.folder(in.NodeId, name)
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	h, st, s := t.createNew(dir, name, in)
	if s == fuse.Status(unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		return t.openExisting(dir, name, in, out)
	}
	if s != fuse.OK {
		return s
	}
	if s := t.enterMade(dir.export, h.fd, st, t.masks(dir, name), &out.EntryOut); s != fuse.OK {
		unix.Close(h.fd)
		return s
	}
	if guard.Match("config.lock", name) {
		t.own(out.NodeId, func(n *node) bool {
			st, err := stat(h.fd)
			return err == nil && keyOf(n.export.index, st) == n.key
		})
	}
	return t.openedKnown(h, in.Flags, out)
}

// enterMade counts the guest's knowledge of a file that was just made, by its descriptor, of which st tells.
func (t *Tree) enterMade(e *export, fd int, st *unix.Stat_t, masked bool, out *fuse.EntryOut) fuse.Status {
	path, err := unix.Openat(t.self, (&node{fd: fd}).link(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return t.know(e, path, st, masked, out)
}

// openedKnown opens for a guest that was just told of the node, or takes that back.
func (t *Tree) openedKnown(h *handle, flags uint32, out *fuse.CreateOut) fuse.Status {
	s := t.opened(h, out.NodeId, flags, &out.OpenOut)
	if s != fuse.OK {
		t.Forget(out.NodeId, 1)
	}
	return s
}

// createNew makes a file that is not there, and tells of it.
func (t *Tree) createNew(dir *node, name string, in *fuse.CreateIn) (*handle, *unix.Stat_t, fuse.Status) {
	t.names.RLock()
	defer t.names.RUnlock()
	at, err := t.below(dir, name)
	if err != nil {
		return nil, nil, status(err)
	}
	kind, s := t.mayCreate(dir, name, at)
	if s != fuse.OK {
		return nil, nil, s
	}
	access := in.Flags & openFlags
	if t.masks(dir, name) {
		access = access&^unix.O_ACCMODE | unix.O_WRONLY // see mask_linux.go
	}
	flags := int(access) | unix.O_CREAT | unix.O_EXCL | unix.O_NONBLOCK
	e := t.entryAt(dir, name, at)
	fd := -1
	err = t.making(dir, name, func() (err error) {
		fd, err = beneath(dir.fd, name, flags, in.Mode&0o777)
		return err
	})
	if err != nil {
		return nil, nil, status(err)
	}
	st, err := stat(fd)
	if err != nil {
		t.made(e, nil)
		unix.Close(fd)
		return nil, nil, status(err)
	}
	t.made(e, st)
	h := newHandle(fd, dir.export, access, kind)
	if e.ok {
		h.noted.Store(time.Now().UnixNano()) // made did it
	}
	return h, st, fuse.OK
}

// newHandle is one of a file that was made.
func newHandle(fd int, e *export, flags uint32, kind guard.Pointer) *handle {
	h := &handle{fd: fd}
	if writes(flags) {
		h.export, h.pointer = e, kind
	}
	return h
}

func (t *Tree) openExisting(dir *node, name string, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if s := t.enter(dir, name, &out.EntryOut); s != fuse.OK {
		return s
	}
	n := t.node(out.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	defer t.release(n)
	s := t.open(n, in.Flags, &out.OpenOut)
	if s != fuse.OK {
		t.Forget(n.id, 1)
	}
	return s
}

// Tmpfile implements fuse.RawFileSystem.
func (t *Tree) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, s := t.folder(in.NodeId, "tmpfile")
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	if dir.export.ReadOnly {
		return fuse.EROFS
	}
	flags := int(in.Flags&openFlags) | int(in.Flags&unix.O_EXCL) | unix.O_TMPFILE
	fd := -1
	err := t.within(dir.export, 0, func() (err error) {
		fd, err = beneath(dir.fd, ".", flags, in.Mode&0o777)
		return err
	})
	if err != nil {
		return status(err)
	}
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return status(err)
	}
	if s := t.enterMade(dir.export, fd, st, dir.masked.Load(), &out.EntryOut); s != fuse.OK {
		unix.Close(fd)
		return s
	}
	return t.openedKnown(newHandle(fd, dir.export, in.Flags, guard.NoPointer), in.Flags, out)
}

// Flush implements fuse.RawFileSystem. ENOSYS tells the guest's kernel, once, that a close needs no word of ours: it
// has written all back by then, and locks are its own.
func (t *Tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Release implements fuse.RawFileSystem.
func (t *Tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { t.closeHandle(in.Fh) }

// ReleaseDir implements fuse.RawFileSystem.
func (t *Tree) ReleaseDir(in *fuse.ReleaseIn) { t.closeHandle(in.Fh) }
