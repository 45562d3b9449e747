package share

import (
	"path/filepath"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// place is where a node is below its export's root now, as components.
func (t *Tree) place(n *node) ([]string, error) {
	root, err := t.readLink(n.export.fd)
	if err != nil {
		return nil, err
	}
	path, err := t.readLink(n.fd)
	if err != nil {
		return nil, err
	}
	if path == root {
		return nil, nil
	}
	below, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")+"/")
	if !ok {
		return nil, unix.EPERM // the host's user moved it out of the export
	}
	return strings.Split(below, "/"), nil
}

func (t *Tree) readLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(t.self, (&node{fd: fd}).link(), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// mayChange tells whether the guest may change a node's content or attributes. The
// caller holds names.
func (t *Tree) mayChange(n *node) fuse.Status {
	if n.export.ReadOnly {
		return fuse.EROFS
	}
	parts, err := t.place(n)
	if err != nil {
		return status(err)
	}
	return t.allow(n.export, parts)
}

func (t *Tree) allow(e *export, parts []string) fuse.Status {
	if t.opts.Guard.Protected(parts) {
		t.opts.Log.Warn("write to a protected path refused", "export", e.Name, "path", filepath.Join(parts...))
		return fuse.EPERM
	}
	return fuse.OK
}

// mayName tells whether the guest may make or remove a name in a folder. kind is
// what would stand there: where a protected path leads through, only a folder may.
func (t *Tree) mayName(dir *node, name string, kind uint32) fuse.Status {
	if dir.export.ReadOnly {
		return fuse.EROFS
	}
	parts, err := t.place(dir)
	if err != nil {
		return status(err)
	}
	parts = append(parts[:len(parts):len(parts)], name)
	if s := t.allow(dir.export, parts); s != fuse.OK {
		return s
	}
	if kind != unix.S_IFDIR && len(t.opts.Guard.Leads(parts)) > 0 {
		t.opts.Log.Warn("name on the way to a protected path refused", "export", dir.export.Name, "path", filepath.Join(parts...))
		return fuse.EPERM
	}
	return fuse.OK
}

// mayArrive tells whether what stands at from/old may be moved to to/name: no link may
// come to stand on the way to a protected path, and no folder that would bring one along.
func (t *Tree) mayArrive(from *node, old string, to *node, name string) fuse.Status {
	if s := t.mayName(to, name, unix.S_IFDIR); s != fuse.OK {
		return s
	}
	parts, err := t.place(to)
	if err != nil {
		return status(err)
	}
	rests := t.opts.Guard.Leads(append(parts[:len(parts):len(parts)], name))
	if len(rests) == 0 {
		return fuse.OK
	}
	fd, err := beneath(from.fd, old, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fuse.EPERM // no folder
	}
	defer unix.Close(fd)
	for _, rest := range rests {
		if holds(fd, rest) {
			return fuse.EPERM
		}
	}
	return fuse.OK
}

// holds tells whether a folder has the first of the components; with it, it could have
// them all at any time.
func holds(fd int, rest []string) bool {
	found := false
	r := dirReader{fd: fd}
	if err := r.seek(0); err != nil {
		return true
	}
	for !found {
		e, ok, err := r.next()
		if err != nil {
			return true
		}
		if !ok {
			break
		}
		found = guard.Match(rest[0], e.name)
	}
	return found
}
