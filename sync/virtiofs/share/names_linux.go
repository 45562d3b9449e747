package share

import (
	"errors"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// beneath opens a name in a folder, never through a link, out of the folder or on another mount.
func beneath(dir int, name string, flags int, mode uint32) (fd int, err error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	// EAGAIN: a rename elsewhere came between; openat2(2) says to try again.
	for range 16 {
		fd, err = unix.Openat2(dir, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// folder finds the folder that a name is to be made or removed in.
func (t *Tree) folder(id uint64, name string) (*node, fuse.Status) {
	if len(name) > maxName {
		return nil, fuse.Status(unix.ENAMETOOLONG)
	}
	if !validName(name) {
		return nil, fuse.EINVAL
	}
	if id == rootID {
		return nil, fuse.EROFS
	}
	n := t.node(id)
	if n == nil {
		return nil, fuse.Status(unix.ESTALE)
	}
	if !n.is(unix.S_IFDIR) {
		t.release(n)
		return nil, fuse.ENOTDIR
	}
	return n, fuse.OK
}

// Lookup implements fuse.RawFileSystem.
func (t *Tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == rootID {
		return t.lookupExport(name, out)
	}
	dir, s := t.folder(h.NodeId, name)
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	return t.enter(dir, name, out)
}

func (t *Tree) lookupExport(name string, out *fuse.EntryOut) fuse.Status {
	for _, n := range t.exports {
		if n.export.Name == name {
			st, err := stat(n.fd)
			if err != nil {
				return status(err)
			}
			t.describe(n, st, out)
			return fuse.OK
		}
	}
	return fuse.ENOENT
}

// enter looks a name up and counts the guest's knowledge of it.
func (t *Tree) enter(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	fd, err := beneath(dir.fd, name, unix.O_PATH, 0)
	if err != nil {
		return status(err)
	}
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return status(err)
	}
	return t.know(dir.export, fd, st, t.masks(dir, name), out)
}

// know takes an O_PATH descriptor, of which st tells, over into the table, or the one that is there already.
func (t *Tree) know(e *export, fd int, st *unix.Stat_t, masked bool, out *fuse.EntryOut) fuse.Status {
	k := keyOf(e.index, st)
	t.mu.Lock()
	n := t.byKey[k]
	if n == nil && t.full() {
		t.mu.Unlock()
		unix.Close(fd)
		return fuse.Status(unix.ENFILE)
	}
	if n == nil {
		t.lastID++
		n = &node{id: t.lastID, key: k, fd: fd, mode: st.Mode, export: e, holders: 1}
		t.put(n)
		fd = -1
	}
	n.lookups++
	if masked {
		n.masked.Store(true)
	}
	t.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
	t.describe(n, st, out)
	return fuse.OK
}

func (t *Tree) describe(n *node, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(validity)
	out.SetAttrTimeout(validity)
	t.attr(n, st, &out.Attr)
}

// Forget implements fuse.RawFileSystem.
func (t *Tree) Forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil || n.fd == n.export.fd {
		return
	}
	n.lookups -= min(count, n.lookups)
	if n.lookups == 0 {
		t.forget(n)
	}
}

// Mknod implements fuse.RawFileSystem.
func (t *Tree) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	kind := in.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fuse.EPERM
	}
	return t.make(in.NodeId, name, kind, out, func(dir int) error {
		return unix.Mknodat(dir, name, kind|in.Mode&0o777, 0)
	})
}

// Mkdir implements fuse.RawFileSystem.
func (t *Tree) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return t.make(in.NodeId, name, unix.S_IFDIR, out, func(dir int) error {
		return unix.Mkdirat(dir, name, in.Mode&0o1777)
	})
}

// Symlink implements fuse.RawFileSystem: the target is stored as it is. None leads into a folder of packages from outside of
// it: what is protected elsewhere is not there, and would be found where the link is.
func (t *Tree) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if guard.InDependencies(strings.Split(target, "/")) {
		if s := t.mayLinkPackages(h.NodeId, name); s != fuse.OK {
			return s
		}
	}
	s := t.make(h.NodeId, name, unix.S_IFLNK, out, func(dir int) error {
		return unix.Symlinkat(target, dir, name)
	})
	if s == fuse.OK {
		t.reportLink(h.NodeId, name)
	}
	return s
}

// reportLink tells of a link that leads out of the export. The kernel says so: read as text, links over links do not show it.
func (t *Tree) reportLink(id uint64, name string) {
	dir := t.node(id)
	defer t.release(dir)
	if dir == nil {
		return
	}
	at, err := t.below(dir, name)
	if err != nil {
		return
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir.export.fd, strings.Join(at.parts, "/"), &how)
	if err == nil {
		unix.Close(fd)
	}
	if !errors.Is(err, unix.EXDEV) {
		return
	}
	if leftOut, ok := t.links.allow(time.Now()); ok {
		t.opts.Log.Info("link that leads out of the folder", "export", dir.export.Name, "path", strings.Join(at.parts, "/"), "left_out", leftOut)
	}
}

func (t *Tree) mayLinkPackages(id uint64, name string) fuse.Status {
	dir, s := t.folder(id, name)
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	at, err := t.below(dir, name)
	if err != nil {
		return status(err)
	}
	if !guard.InDependencies(at.parts) {
		return t.refuse("link into a folder of packages refused", dir.export, at.parts)
	}
	return fuse.OK
}

// make makes a name by f and looks it up.
func (t *Tree) make(id uint64, name string, kind uint32, out *fuse.EntryOut, f func(dir int) error) fuse.Status {
	dir, s := t.folder(id, name)
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	t.names.RLock()
	defer t.names.RUnlock()
	at, err := t.below(dir, name)
	if err != nil {
		return status(err)
	}
	if s := t.mayName(dir, name, at, kind); s != fuse.OK {
		return s
	}
	e := t.entryAt(dir, name, at)
	if err := t.making(dir, name, func() error { return f(dir.fd) }); err != nil {
		return status(err)
	}
	t.made(e, nil)
	s = t.enter(dir, name, out)
	if s == fuse.OK && kind != unix.S_IFREG && !at.ordinary && guard.IsLock(at.parts) {
		t.own(out.NodeId, func(n *node) bool { return n.is(kind) }) // what git makes is a file
	}
	return s
}

// Link implements fuse.RawFileSystem.
func (t *Tree) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := t.node(in.Oldnodeid)
	defer t.release(n)
	if n == nil || n.is(unix.S_IFDIR) {
		return fuse.EPERM
	}
	t.names.RLock()
	parts, s := t.mayChange(n)
	if s == fuse.OK {
		s = status(t.before(t.fileAt(n.export, n.fd, parts))) // it can be changed by its other name from now on
	}
	t.names.RUnlock()
	if s != fuse.OK {
		return s
	}
	return t.make(in.NodeId, name, n.mode&unix.S_IFMT, out, func(dir int) error {
		return t.linkInto(n, in.NodeId, dir, name)
	})
}

func (t *Tree) linkInto(n *node, dirID uint64, dir int, name string) error {
	d := t.node(dirID)
	defer t.release(d)
	if d == nil || d.export != n.export || t.masks(d, name) {
		return unix.EXDEV
	}
	return unix.Linkat(t.self, n.link(), dir, name, unix.AT_SYMLINK_FOLLOW)
}

// Unlink implements fuse.RawFileSystem.
func (t *Tree) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return t.remove(h.NodeId, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (t *Tree) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return t.remove(h.NodeId, name, unix.AT_REMOVEDIR)
}

func (t *Tree) remove(id uint64, name string, flags int) fuse.Status {
	dir, s := t.folder(id, name)
	if s != fuse.OK {
		return s
	}
	defer t.release(dir)
	t.names.RLock()
	defer t.names.RUnlock()
	at, err := t.below(dir, name)
	if err != nil {
		return status(err)
	}
	if s := t.mayRemove(dir, name, at); s != fuse.OK {
		return s
	}
	e := t.entryAt(dir, name, at)
	if err := t.before(e); err != nil {
		return status(err)
	}
	if err := unix.Unlinkat(dir.fd, name, flags); err != nil {
		return status(err)
	}
	t.afterGone(e)
	return fuse.OK
}

// Rename implements fuse.RawFileSystem.
func (t *Tree) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	from, s := t.folder(in.NodeId, oldName)
	if s != fuse.OK {
		return s
	}
	defer t.release(from)
	to, s := t.folder(in.Newdir, newName)
	if s != fuse.OK {
		return s
	}
	defer t.release(to)
	if from.export != to.export {
		return fuse.EXDEV
	}
	t.names.Lock()
	defer t.names.Unlock()
	if in.Flags == 0 && t.isConfig(to, newName) {
		return t.replaceConfig(from, oldName, to, newName)
	}
	if s := t.mayMove(from, oldName, to, newName); s != fuse.OK {
		return s
	}
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		if s := t.mayMove(to, newName, from, oldName); s != fuse.OK {
			return s
		}
	}
	if in.Flags&unix.RENAME_NOREPLACE != 0 && t.exists(to, newName) {
		return fuse.Status(unix.EEXIST)
	}
	err := t.beforeRename(from, oldName, to, newName)
	if err == nil && in.Flags&unix.RENAME_EXCHANGE != 0 {
		err = t.beforeRename(to, newName, from, oldName)
	}
	if err != nil {
		return status(err)
	}
	err = unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags))
	t.moves.Add(1) // files move as folders do here: to tell them apart costs more
	switch {
	case err != nil:
	case in.Flags&unix.RENAME_EXCHANGE != 0:
		t.afterExchange(from, oldName, to, newName)
	default:
		t.afterRename(from, oldName, to, newName)
	}
	return status(err)
}
