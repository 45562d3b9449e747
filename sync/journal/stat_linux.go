package journal

import (
	"errors"

	"golang.org/x/sys/unix"
)

func mtime(st *unix.Stat_t) int64 { return st.Mtim.Nano() }

// renameNew renames in a folder, to a name that does not exist: EEXIST if it does.
func renameNew(dir int, from, to string) error {
	return unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
}

// exchange swaps two names in one step. errors.ErrUnsupported: this file system cannot.
func exchange(dir int, a, b string) error {
	err := unix.Renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return err
}
