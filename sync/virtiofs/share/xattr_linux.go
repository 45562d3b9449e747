package share

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	userPrefix   = "user."
	maxXattr     = 64 << 10 // XATTR_SIZE_MAX
	maxXattrList = 64 << 10 // XATTR_LIST_MAX
)

// xattrNode finds a node that may have attributes of its user: a file or a folder.
func (t *Tree) xattrNode(id uint64) (*node, fuse.Status) {
	n := t.node(id)
	if n == nil || !n.is(unix.S_IFREG) && !n.is(unix.S_IFDIR) || n.masked.Load() {
		t.release(n)
		return nil, fuse.ENODATA
	}
	return n, fuse.OK
}

func (n *node) procPath() string { return "/proc/self/fd/" + n.link() }

// GetXAttr implements fuse.RawFileSystem.
func (t *Tree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if !strings.HasPrefix(attr, userPrefix) {
		return 0, fuse.ENODATA
	}
	n, s := t.xattrNode(h.NodeId)
	if s != fuse.OK {
		return 0, s
	}
	defer t.release(n)
	size, err := unix.Getxattr(n.procPath(), attr, dest)
	if err != nil {
		return 0, status(err)
	}
	return uint32(size), fuse.OK
}

// ListXAttr implements fuse.RawFileSystem.
func (t *Tree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, s := t.xattrNode(h.NodeId)
	if s != fuse.OK {
		return 0, fuse.OK // nothing to list
	}
	defer t.release(n)
	all := make([]byte, maxXattrList)
	size, err := unix.Listxattr(n.procPath(), all)
	if err != nil {
		return 0, status(err)
	}
	users := userOnly(all[:size])
	if len(dest) > 0 && len(dest) < len(users) {
		return uint32(len(users)), fuse.ERANGE
	}
	copy(dest, users)
	return uint32(len(users)), fuse.OK
}

// userOnly keeps the names of a NUL-terminated list that the guest may see.
func userOnly(list []byte) []byte {
	var out []byte
	for name := range bytes.SplitAfterSeq(list, []byte{0}) {
		if bytes.HasPrefix(name, []byte(userPrefix)) {
			out = append(out, name...)
		}
	}
	return out
}

// SetXAttr implements fuse.RawFileSystem.
func (t *Tree) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if len(data) > maxXattr {
		return fuse.Status(unix.E2BIG)
	}
	return t.changeXattr(in.NodeId, attr, func(n *node) error {
		return t.within(n.export, int64(len(data)), func() error { return unix.Setxattr(n.procPath(), attr, data, int(in.Flags)) })
	})
}

// RemoveXAttr implements fuse.RawFileSystem.
func (t *Tree) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return t.changeXattr(h.NodeId, attr, func(n *node) error { return unix.Removexattr(n.procPath(), attr) })
}

func (t *Tree) changeXattr(id uint64, attr string, f func(*node) error) fuse.Status {
	if strings.HasPrefix(attr, "system.") {
		return fuse.Status(unix.EOPNOTSUPP) // no access control lists
	}
	if !strings.HasPrefix(attr, userPrefix) {
		return fuse.EPERM
	}
	n, s := t.xattrNode(id)
	if s != fuse.OK {
		return fuse.EPERM
	}
	defer t.release(n)
	t.names.RLock()
	defer t.names.RUnlock()
	if _, s := t.mayChange(n); s != fuse.OK {
		return s
	}
	return status(f(n))
}
