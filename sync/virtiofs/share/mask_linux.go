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
// made (a clone may bring one along) and written through the descriptor that made it; from then on, as
// one that was there before, the guest can neither change nor remove nor link it: else it could take the
// mask away, or the user's secrets. To set its mode or times does nothing, and says so to nobody: what
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
	parts, err := t.below(dir, name)
	return err != nil || t.opts.Mask.Masked(parts)
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

// maxHides bounds how many entries are looked at before a folder moves into one of packages, where less
// is masked.
const maxHides = 4096

// hides tells whether a folder might have something masked in it.
func (t *Tree) hides(dir int, name string, seen *int) bool {
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
		case e.kind == unix.S_IFDIR && t.hides(fd, e.name, seen), e.kind == 0:
			return true
		}
	}
}

// rendering is what the guest sees of a masked file in one of its states.
type rendering struct {
	mtime   unix.Timespec
	size    int64
	content []byte
}

// rendered gives the content of a masked file for the guest. What cannot be read is empty.
func (t *Tree) rendered(n *node, st *unix.Stat_t) []byte {
	if r := n.rendering.Load(); r != nil && r.mtime == st.Mtim && r.size == st.Size {
		return r.content
	}
	r := &rendering{mtime: st.Mtim, size: st.Size}
	if parts, err := t.place(n); err == nil && len(parts) > 0 {
		r.content = guard.Render(parts[len(parts)-1], t.content(n))
	}
	n.rendering.Store(r)
	return r.content
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

// openMasked opens what is left of a masked file, in memory.
func (t *Tree) openMasked(n *node) (int, error) {
	st, err := stat(n.fd)
	if err != nil {
		return -1, err
	}
	fd, err := unix.MemfdCreate("masked", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for rest := t.rendered(n, st); len(rest) > 0; {
		written, err := unix.Write(fd, rest)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		rest = rest[written:]
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
