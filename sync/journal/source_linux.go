package journal

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Source is a file to look at: a name in a folder, or a descriptor (Name empty).
type Source struct {
	FD   int // of the folder, or of the file itself; may be O_PATH
	Name string
}

func (s Source) stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retry(func() error {
		if s.Name == "" {
			return unix.Fstat(s.FD, &st)
		}
		return unix.Fstatat(s.FD, s.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// open opens a regular file for reading, which does not show in its times where the file is ours.
func (s Source) open() (*os.File, error) {
	fd, err := s.openWith(unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		fd, err = s.openWith(0)
	}
	if errors.Is(err, unix.EACCES) {
		return s.openClosed()
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "old"), nil
}

func (s Source) openWith(flags int) (fd int, err error) {
	flags |= unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	err = retry(func() (err error) {
		if s.Name == "" {
			fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(s.FD), flags, 0)
			return err
		}
		fd, err = unix.Openat(s.FD, s.Name, flags|unix.O_NOFOLLOW, 0)
		return err
	})
	return fd, err
}

// openClosed opens a file whose owner may not read it: the guest can set that mode, and remove the file then.
func (s Source) openClosed() (*os.File, error) {
	if s.Name != "" {
		fd, err := unix.Openat(s.FD, s.Name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		return Source{FD: fd}.openClosed()
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.FD, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EACCES
	}
	link, mode := "/proc/self/fd/"+strconv.Itoa(s.FD), st.Mode&0o7777
	if err := unix.Chmod(link, mode|0o400); err != nil {
		return nil, err
	}
	fd, err := unix.Open(link, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if back := unix.Chmod(link, mode); back != nil && err == nil {
		unix.Close(fd)
		err = back
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "old"), nil
}

func (s Source) target() []byte {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(s.FD, s.Name, buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

func stateOf(st *unix.Stat_t, s Source) State {
	out := State{Kind: Other, Mode: st.Mode & 0o7777, Size: st.Size, MTime: st.Mtim.Nano(), Ino: st.Ino}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		out.Kind = File
	case unix.S_IFDIR:
		out.Kind, out.Size = Dir, 0
	case unix.S_IFLNK:
		out.Kind, out.Target = Link, s.target()
	}
	return out
}
