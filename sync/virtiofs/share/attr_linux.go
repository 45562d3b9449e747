package share

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// attr tells the guest of a file, as its own user's or nobody's.
func (t *Tree) attr(n *node, st *unix.Stat_t, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: t.inode(st.Dev, st.Ino), Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec),
		Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
		Mode: st.Mode, Nlink: uint32(st.Nlink), Owner: fuse.Owner{Uid: nobody, Gid: nobody}, Blksize: uint32(st.Blksize),
	}
	if st.Uid == t.opts.HostUID {
		out.Owner = fuse.Owner{Uid: t.opts.GuestUID, Gid: t.opts.GuestGID}
	}
	if n.masked.Load() && n.is(unix.S_IFREG) {
		out.Size = t.renderedSize(n, st)
		out.Blocks = (out.Size + 511) / 512
	}
}

// rootAttr describes the synthetic root.
func (t *Tree) rootAttr(out *fuse.AttrOut) {
	at := uint64(t.started.Unix())
	out.SetTimeout(validity)
	out.Attr = fuse.Attr{
		Ino: rootID, Mode: unix.S_IFDIR | 0o555, Nlink: uint32(2 + len(t.exports)),
		Atime: at, Mtime: at, Ctime: at, Blksize: 4096,
	}
}

// GetAttr implements fuse.RawFileSystem.
func (t *Tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == rootID {
		t.rootAttr(out)
		return fuse.OK
	}
	n := t.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	defer t.release(n)
	return t.tell(n, out)
}

func (t *Tree) tell(n *node, out *fuse.AttrOut) fuse.Status {
	st, err := stat(n.fd)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(validity)
	t.attr(n, st, &out.Attr)
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem.
func (t *Tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == rootID {
		return fuse.EROFS
	}
	n := t.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	defer t.release(n)
	if in.InHeader.Uid == 0 {
		in.Valid &^= fuse.FATTR_UID | fuse.FATTR_GID // see setOwner
	}
	if n.masked.Load() && in.Valid&(fuse.FATTR_SIZE|fuse.FATTR_UID|fuse.FATTR_GID) == 0 && !n.export.ReadOnly {
		return t.tell(n, out)
	}
	if t.sameMode(n, in) {
		return t.tell(n, out)
	}
	t.names.RLock()
	defer t.names.RUnlock()
	parts, s := t.mayChange(n)
	if s != fuse.OK {
		return s
	}
	// A link has no mode, its times are not put back, and a look at its target would change one of them.
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 && !n.is(unix.S_IFLNK) {
		if e := t.fileAt(n.export, n.fd, parts); e.ok {
			own, err := t.opts.Journal.BeforeMeta(e.at, e.src, e.st)
			if err != nil {
				return status(err)
			}
			defer func() { t.opts.Journal.AfterMeta(e.at, e.src, own) }()
		}
	}
	for _, set := range []func(*node, *fuse.SetAttrIn) error{t.setOwner, t.setMode, t.setSize, t.setTimes} {
		if err := set(n, in); err != nil {
			return status(err)
		}
	}
	return t.tell(n, out)
}

// sameMode tells whether a request asks for the mode that is there, and nothing else: it changes nothing, and is
// how the guest's agent has its kernel look at a file anew.
func (t *Tree) sameMode(n *node, in *fuse.SetAttrIn) bool {
	const asks = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&asks != fuse.FATTR_MODE || n.export.ReadOnly {
		return false
	}
	st, err := stat(n.fd)
	return err == nil && st.Mode&0o7777 == in.Mode&0o7777
}

// setOwner takes what is so already: the guest's user, for what belongs to the host's. The guest's root does not
// come here: it is told that all went well, and then to whom the file still belongs, as a server of NFS that
// squashes owners does. What unpacks or copies as root, also in a container, would give up otherwise.
func (t *Tree) setOwner(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) == 0 {
		return nil
	}
	st, err := stat(n.fd)
	if err != nil {
		return err
	}
	if st.Uid != t.opts.HostUID || in.Valid&fuse.FATTR_UID != 0 && in.Uid != t.opts.GuestUID ||
		in.Valid&fuse.FATTR_GID != 0 && in.Gid != t.opts.GuestGID {
		return unix.EPERM
	}
	return nil
}

func (t *Tree) setMode(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&fuse.FATTR_MODE == 0 {
		return nil
	}
	if n.is(unix.S_IFLNK) {
		return unix.EOPNOTSUPP
	}
	keep := uint32(0o777)
	if n.is(unix.S_IFDIR) {
		keep |= unix.S_ISVTX
	}
	return unix.Fchmodat(t.self, n.link(), in.Mode&keep, 0)
}

func (t *Tree) setSize(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&fuse.FATTR_SIZE == 0 {
		return nil
	}
	if !n.is(unix.S_IFREG) || int64(in.Size) < 0 {
		return unix.EINVAL
	}
	if in.Valid&fuse.FATTR_FH != 0 {
		if h := t.file(in.Fh); h != nil {
			defer h.drop()
			return t.setSizeOf(h, n, int64(in.Size))
		}
	}
	e := t.fileOf(n.export, n.fd)
	if err := t.before(e); err != nil {
		return err
	}
	defer t.after(e)
	fd, err := t.reopen(n, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.resize(n.export, fd, int64(in.Size))
}

// setSizeOf is setSize by an open file, which must be the node's: that one was looked at.
func (t *Tree) setSizeOf(h *handle, n *node, size int64) error {
	if h.pointer != guard.NoPointer {
		return unix.EPERM
	}
	st, err := stat(h.fd)
	if err != nil {
		return err
	}
	if keyOf(n.export.index, st) != n.key {
		return unix.EBADF
	}
	e := t.fileOf(n.export, n.fd)
	if err := t.before(e); err != nil {
		return err
	}
	defer t.after(e)
	return t.resize(n.export, h.fd, size)
}

func (t *Tree) setTimes(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	ts := []unix.Timespec{
		when(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		when(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	return unix.UtimesNanoAt(n.fd, "", ts, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func when(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	ts := unix.NsecToTimespec(int64(min(nsec, uint32(time.Second-1))))
	ts.Sec = int64(sec)
	return ts
}

// Readlink implements fuse.RawFileSystem.
func (t *Tree) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n := t.node(h.NodeId)
	if n == nil || !n.is(unix.S_IFLNK) {
		t.release(n)
		return nil, fuse.EINVAL
	}
	defer t.release(n)
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:size], fuse.OK
}

// StatFs implements fuse.RawFileSystem.
func (t *Tree) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n := t.node(h.NodeId)
	defer t.release(n)
	if n == nil {
		*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
		return fuse.OK
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(n.fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namelen),
	}
	n.export.withoutReserve(&st, out)
	return fuse.OK
}
