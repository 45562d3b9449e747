//go:build unix

package journal

import (
	"io/fs"
	"syscall"
)

// errNotDir: a folder on the way is a file now, so nothing stands at the path.
const errNotDir = syscall.ENOTDIR

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
