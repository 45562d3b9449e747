//go:build unix

package journal

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// look tells what stands at a path now.
func look(root *os.Root, name string) (State, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return State{Kind: Absent}, nil
	}
	if err != nil {
		return State{}, err
	}
	s := State{Kind: Other, Mode: uint32(info.Mode().Perm()), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Inode, s.CTime = st.Ino, changed(st)
	}
	switch info.Mode().Type() {
	case 0:
		s.Kind, s.Size = File, info.Size()
	case fs.ModeDir:
		s.Kind = Folder
	case fs.ModeSymlink:
		s.Kind = Link
		target, err := root.Readlink(name)
		if err != nil {
			return s, err
		}
		s.Target = []byte(target)
	}
	return s, nil
}
