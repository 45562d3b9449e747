package disk

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/tree"
)

func stamp(st *unix.Stat_t) tree.Stamp {
	return tree.Stamp{MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(), Inode: st.Ino}
}

// renameNew renames to a name that does not exist: EEXIST if it does.
func renameNew(fromDir int, from string, toDir int, to string) error {
	return unix.RenameatxNp(fromDir, from, toDir, to, unix.RENAME_EXCL)
}

// exchange swaps two names in one step. errors.ErrUnsupported: this file system cannot.
func exchange(aDir int, a string, bDir int, b string) error {
	err := unix.RenameatxNp(aDir, a, bDir, b, unix.RENAME_SWAP)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return errors.ErrUnsupported
	}
	return err
}

// flush writes all that was changed to the disk.
func flush(int) error { return unix.Sync() }
