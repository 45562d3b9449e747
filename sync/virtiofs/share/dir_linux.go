package share

import (
	"bytes"
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirent is one entry of a folder. off is where the next one begins.
type dirent struct {
	ino, off uint64
	kind     uint32 // S_IFMT
	name     string
}

// dirReader reads a folder's descriptor. The kernel's own offsets are what the
// guest sees, so that it can begin anywhere again.
type dirReader struct {
	fd   int
	off  uint64
	buf  []byte // read and not yet used
	page []byte
}

const direntHead = 19 // d_ino, d_off, d_reclen, d_type: getdents64(2)

func (r *dirReader) seek(off uint64) error {
	r.buf, r.off = nil, off
	_, err := unix.Seek(r.fd, int64(off), unix.SEEK_SET)
	return err
}

// next takes an entry; false at the end.
func (r *dirReader) next() (e dirent, ok bool, err error) {
	if len(r.buf) == 0 {
		if r.page == nil {
			r.page = make([]byte, 32<<10)
		}
		n, err := unix.Getdents(r.fd, r.page)
		if err != nil || n == 0 {
			return e, false, err
		}
		r.buf = r.page[:n]
	}
	size := int(binary.NativeEndian.Uint16(r.buf[16:]))
	name, _, _ := bytes.Cut(r.buf[direntHead:size], []byte{0})
	e = dirent{
		ino: binary.NativeEndian.Uint64(r.buf), off: binary.NativeEndian.Uint64(r.buf[8:]),
		kind: uint32(r.buf[18]) << 12, name: string(name),
	}
	r.buf, r.off = r.buf[size:], e.off
	return e, true, nil
}

// OpenDir implements fuse.RawFileSystem.
func (t *Tree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h := &handle{fd: -1, dir: &dirReader{fd: -1}}
	if in.NodeId != rootID {
		n := t.node(in.NodeId)
		if n == nil {
			return fuse.Status(unix.ESTALE)
		}
		defer t.release(n)
		if !n.is(unix.S_IFDIR) {
			return fuse.ENOTDIR
		}
		fd, err := t.reopen(n, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return status(err)
		}
		h.fd, h.dir.fd = fd, fd
	}
	id, ok := t.addHandle(h, in.NodeId)
	if !ok {
		h.drop()
		return fuse.Status(unix.ENFILE)
	}
	out.Fh = id
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem.
func (t *Tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.readDir(in, func(e dirent) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind, Off: e.off})
	})
}

// ReadDirPlus implements fuse.RawFileSystem: each entry is looked up as well.
func (t *Tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir := t.node(in.NodeId)
	defer t.release(dir)
	return t.readDir(in, func(e dirent) bool {
		// The guest's memory may lie under out, so the answer is made here and copied.
		place := out.AddDirLookupEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind, Off: e.off})
		if place == nil {
			return false
		}
		var entry fuse.EntryOut
		if validName(e.name) && t.lookupIn(dir, e.name, &entry) == fuse.OK {
			*place = entry // else no node: the guest looks it up itself
		}
		return true
	})
}

func (t *Tree) lookupIn(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	if dir == nil {
		return t.lookupExport(name, out)
	}
	return t.enter(dir, name, out)
}

// readDir gives entries from in.Offset to add until it takes no more.
func (t *Tree) readDir(in *fuse.ReadIn, add func(dirent) bool) fuse.Status {
	h := t.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer h.drop()
	if h.dir == nil {
		return fuse.ENOTDIR
	}
	if h.fd < 0 {
		return t.readRoot(in.Offset, add)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if in.Offset != h.dir.off || in.Offset == 0 {
		if err := h.dir.seek(in.Offset); err != nil {
			return status(err)
		}
	}
	return t.fill(h, add)
}

func (t *Tree) fill(h *handle, add func(dirent) bool) fuse.Status {
	st, err := stat(h.fd)
	if err != nil {
		return status(err)
	}
	for {
		before, rest := h.dir.off, h.dir.buf
		e, ok, err := h.dir.next()
		if err != nil || !ok {
			return status(err)
		}
		e.ino = t.inode(st.Dev, e.ino)
		if !add(e) {
			return t.unread(h, before, rest)
		}
	}
}

// unread puts the entry back that found no room.
func (t *Tree) unread(h *handle, off uint64, rest []byte) fuse.Status {
	if len(rest) == 0 { // it was the first of a page that is read: read it again
		return status(h.dir.seek(off))
	}
	h.dir.off, h.dir.buf = off, rest
	return fuse.OK
}

// readRoot lists the exports.
func (t *Tree) readRoot(from uint64, add func(dirent) bool) fuse.Status {
	for i := from; i < uint64(len(t.exports)); i++ {
		n := t.exports[i]
		if !add(dirent{ino: t.inode(n.key.dev, n.key.ino), off: i + 1, kind: unix.S_IFDIR, name: n.export.Name}) {
			break
		}
	}
	return fuse.OK
}
