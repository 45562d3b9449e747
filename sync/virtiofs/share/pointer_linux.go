package share

import (
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// A pointer, see package guard, is made as an empty file by [Tree.Create] alone, and written in one piece that was
// looked at. Nothing that the guest had otherwise gets the name, and what has it gets no second one.

// mayPoint tells whether the guest may make or remove the pointer with the name, whose place is parts.
func (t *Tree) mayPoint(dir *node, name string, parts []string) fuse.Status {
	if s := t.allowPointer(dir.export, parts); s != fuse.OK {
		return s
	}
	return t.mayUnmask(dir, name, parts)
}

// allowPointer is allow for a pointer. One in git's folder is protected by itself; what counts is whether its folder is.
func (t *Tree) allowPointer(e *export, parts []string) fuse.Status {
	if !guard.Match(".git", parts[len(parts)-1]) {
		parts = parts[:len(parts)-1]
	}
	return t.allow(e, parts)
}

// mayCreate tells whether the guest may make a regular file, and what it would be.
func (t *Tree) mayCreate(dir *node, name string, at spot) (guard.Pointer, fuse.Status) {
	if !at.ordinary && !dir.export.ReadOnly {
		if kind := guard.PointerAt(at.parts); kind != guard.NoPointer {
			return kind, t.mayPoint(dir, name, at.parts)
		}
	}
	return guard.NoPointer, t.mayName(dir, name, at, unix.S_IFREG)
}

// mayWrite tells whether the guest may open a file to write to it, and what it is.
func (t *Tree) mayWrite(n *node) (guard.Pointer, fuse.Status) {
	if n.export.ReadOnly || n.masked.Load() {
		_, s := t.mayChange(n)
		return guard.NoPointer, s
	}
	parts, err := t.place(n)
	if err != nil {
		return guard.NoPointer, status(err)
	}
	if kind := guard.PointerAt(parts); kind != guard.NoPointer && n.is(unix.S_IFREG) {
		return kind, t.allowPointer(n.export, parts)
	}
	return guard.NoPointer, t.mayChangeAt(n, parts)
}

// point writes a pointer: all of it or nothing. The lock keeps two of them from being mixed.
func (t *Tree) point(h *handle, offset uint64, data [][]byte) (uint32, fuse.Status) {
	content := make([]byte, 0, guard.MaxPointer)
	for _, piece := range data { // the guest's memory, which it may change while this looks at it
		content = append(content, piece[:min(len(piece), guard.MaxPointer+1-len(content))]...)
	}
	t.names.Lock()
	defer t.names.Unlock()
	st, err := stat(h.fd)
	if err != nil {
		return 0, status(err)
	}
	if err := h.pointer.Check(content); err != nil || offset != 0 || st.Size != 0 {
		why := "write of a file that leads git elsewhere refused: it is written in one piece"
		if err != nil {
			why = "write of a file that leads git elsewhere refused: " + err.Error()
		}
		parts, err := t.place(&node{fd: h.fd, export: h.export})
		if err != nil {
			return 0, status(err)
		}
		return 0, t.refuse(why, h.export, parts)
	}
	err = t.within(h.export, int64(len(content)), func() error {
		return t.changed(h, func() error { return putPointer(h.fd, content) })
	})
	if err != nil {
		return 0, status(err)
	}
	return uint32(len(content)), fuse.OK
}

func putPointer(fd int, content []byte) error {
	n, err := unix.Pwrite(fd, content, 0)
	if err == nil && n < len(content) {
		err = io.ErrShortWrite
	}
	if err != nil {
		unix.Ftruncate(fd, 0) //nolint:errcheck // half of one is refused by git
	}
	return err
}
