package share

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/virtiofs/nudge"
)

// fileRead is a read that happens when the answer's place is known: straight into
// the guest's memory. It holds the handle until Done.
type fileRead struct {
	h    *handle
	off  int64
	size int
}

// Size implements fuse.ReadResult.
func (r *fileRead) Size() int { return r.size }

// Done implements fuse.ReadResult.
func (r *fileRead) Done() { r.h.drop() }

// Bytes implements fuse.ReadResult.
func (r *fileRead) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, s := r.Readv([][]byte{buf[:min(len(buf), r.size)]})
	return buf[:n], s
}

// Readv is go-fuse's way to read into several pieces of memory.
func (r *fileRead) Readv(dst [][]byte) (n int, s fuse.Status) {
	err := retry(func() (err error) {
		n, err = unix.Preadv(r.h.fd, dst, r.off)
		return err
	})
	return max(n, 0), status(err)
}

// Read implements fuse.RawFileSystem.
func (t *Tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := t.file(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	if int64(in.Offset) < 0 {
		h.drop()
		return nil, fuse.EINVAL
	}
	return &fileRead{h: h, off: int64(in.Offset), size: min(int(in.Size), len(buf))}, fuse.OK
}

// Write implements fuse.RawFileSystem.
func (t *Tree) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return t.Writev(cancel, in, [][]byte{data})
}

// Writev implements fuse.RawFileSystem. Whether to append is what the guest's descriptor says now. A page that was
// changed in memory comes through any handle that is open for writing, one to append with too, and has its place.
func (t *Tree) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h := t.file(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	defer h.drop()
	if int64(in.Offset) < 0 {
		return 0, fuse.EINVAL
	}
	if h.pointer != guard.NoPointer {
		return t.point(h, in.Offset, data)
	}
	flags, takes := 0, int64(0)
	for _, piece := range data {
		takes += int64(len(piece))
	}
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		flags = unix.RWF_APPEND
	} else {
		takes = h.reaching(int64(in.Offset), takes)
	}
	var n int
	err := t.writing(h, takes, func() error {
		return retry(func() (err error) {
			n, err = unix.Pwritev2(h.fd, data, int64(in.Offset), flags)
			return err
		})
	})
	return uint32(max(n, 0)), status(err)
}

// Fsync implements fuse.RawFileSystem.
func (t *Tree) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := t.file(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer h.drop()
	if in.FsyncFlags&1 != 0 {
		return status(retry(func() error { return unix.Fdatasync(h.fd) }))
	}
	return status(retry(func() error { return unix.Fsync(h.fd) }))
}

// FsyncDir implements fuse.RawFileSystem.
func (t *Tree) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := t.handle(in.Fh)
	if h == nil || h.dir == nil {
		return fuse.EBADF
	}
	defer h.drop()
	if h.fd < 0 {
		return fuse.OK
	}
	return status(retry(func() error { return unix.Fsync(h.fd) }))
}

// Fallocate implements fuse.RawFileSystem.
func (t *Tree) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := t.file(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer h.drop()
	if in.Offset == nudge.Offset && in.Length == nudge.Length && in.Mode == unix.FALLOC_FL_KEEP_SIZE {
		return fuse.OK // the guest's agent lets its kernel tell of a change of the host's
	}
	if h.pointer != guard.NoPointer {
		return fuse.EPERM
	}
	allocate := func() error {
		return retry(func() error { return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length)) })
	}
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_COLLAPSE_RANGE) != 0 { // it makes room
		return status(t.changing(h, allocate))
	}
	return status(t.writing(h, h.reaching(int64(in.Offset), int64(in.Length)), allocate))
}

// Lseek implements fuse.RawFileSystem: data and holes, all else is the guest kernel's.
func (t *Tree) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	h := t.file(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer h.drop()
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// CopyFileRange implements fuse.RawFileSystem.
func (t *Tree) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := t.file(in.FhIn), t.file(in.FhOut)
	for _, h := range []*handle{from, to} {
		if h != nil {
			defer h.drop()
		}
	}
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	if to.pointer != guard.NoPointer {
		return 0, fuse.EPERM
	}
	const most = 1 << 30 // the answer has 32 bits, and one call should end
	in1, in2 := int64(in.OffIn), int64(in.OffOut)
	var n int
	size := min(in.Len, most)
	err := t.writing(to, to.reaching(in2, int64(size)), func() (err error) {
		n, err = unix.CopyFileRange(from.fd, &in1, to.fd, &in2, int(size), 0)
		return err
	})
	return uint32(max(n, 0)), status(err)
}
