package share

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// A masked file is there for the guest, with what guard.Render leaves of it as its content. It may be
// made (a clone may bring one along) and written through the descriptor that made it, which does not read: what the
// user puts into the file later is not the guest's. From then on, as one that was there before, the guest can neither
// change nor remove nor link it: else it could take the mask away, or the user's secrets. Nothing that it had by
// another name before gets a masked one: it would keep a way to the content. To set its mode or times does nothing, and says so to nobody: what
// unpacks an archive does that to each file.

// masks tells whether a name in a folder is masked. Once it is, the node stays so until the guest
// forgets it, whatever it is called meanwhile.
func (t *Tree) masks(dir *node, name string) bool {
	if dir.masked.Load() {
		return true
	}
	if !t.opts.Mask.Ends(name) {
		return false
	}
	at, err := t.below(dir, name)
	return err != nil || t.opts.Mask.Masked(at.parts)
}

// mayUnmask tells whether a name may be made or removed as far as masks go: only where nothing stands.
func (t *Tree) mayUnmask(dir *node, name string, parts []string) fuse.Status {
	if !t.masks(dir, name) {
		return fuse.OK
	}
	if _, err := kindOf(dir.fd, name); errors.Is(err, unix.ENOENT) {
		return fuse.OK
	}
	return t.refuse("change of a masked path refused", dir.export, parts)
}

// How many entries are looked at before a folder moves to where less is masked, and how deep: each level holds a
// descriptor.
const (
	maxHides     = 4096
	maxHidesDeep = 64
)

// hides tells whether a folder might have something masked in it.
func (t *Tree) hides(dir int, name string, deep int, seen *int) bool {
	if deep > maxHidesDeep {
		return true
	}
	fd, err := beneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	r := dirReader{fd: fd}
	for {
		e, ok, err := r.next()
		if *seen++; err != nil || *seen > maxHides {
			return true
		}
		switch {
		case !ok:
			return false
		case e.name == "." || e.name == "..":
		case t.opts.Mask.Ends(e.name):
			return true
		case e.kind == unix.S_IFDIR && t.hides(fd, e.name, deep+1, seen), e.kind == 0:
			return true
		}
	}
}

// rendering is the size of what the guest sees of a masked file in one of its states. The content is made for each
// descriptor: kept with the nodes it would take memory of the host's without end.
type rendering struct {
	mtime  unix.Timespec
	size   int64
	length int
}

// renderedSize gives the size of a masked file for the guest.
func (t *Tree) renderedSize(n *node, st *unix.Stat_t) uint64 {
	if r := n.rendering.Load(); r != nil && r.mtime == st.Mtim && r.size == st.Size {
		return uint64(r.length)
	}
	length := len(t.rendered(n))
	n.rendering.Store(&rendering{mtime: st.Mtim, size: st.Size, length: length})
	return uint64(length)
}

// rendered gives the content of a masked file for the guest. What cannot be read is empty.
func (t *Tree) rendered(n *node) []byte {
	parts, err := t.place(n)
	if err != nil || len(parts) == 0 {
		return nil
	}
	return guard.Render(parts[len(parts)-1], t.content(n))
}

func (t *Tree) content(n *node) []byte {
	fd, err := t.reopen(n, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "masked")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, guard.MaxRender+1))
	if err != nil {
		return nil
	}
	return b
}

// maxShown bounds the memory that what is left of masked files takes in all open descriptors.
const maxShown = 64 << 20

// openMasked opens what is left of a masked file, in memory that nobody can change or make larger. It tells how
// much of [maxShown] it takes, until [handle.drop].
func (t *Tree) openMasked(n *node) (fd int, takes int64, err error) {
	content := t.rendered(n)
	takes = (int64(len(content)) + 4095) &^ 4095
	if t.shown.Add(takes) > maxShown {
		t.shown.Add(-takes)
		return -1, 0, unix.ENFILE
	}
	if fd, err = sealed(content); err != nil {
		t.shown.Add(-takes)
		return -1, 0, err
	}
	return fd, takes, nil
}

func sealed(content []byte) (int, error) {
	fd, err := unix.MemfdCreate("masked", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	for len(content) > 0 {
		written, err := unix.Write(fd, content)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		content = content[written:]
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (t *Tree) refuseMasked(n *node) fuse.Status {
	parts, err := t.place(n)
	if err != nil {
		parts = []string{filepath.Base(n.export.Name)}
	}
	return t.refuse("change of a masked path refused", n.export, parts)
}
