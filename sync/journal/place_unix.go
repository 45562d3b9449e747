//go:build unix

package journal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What follows reaches a path below a root component by component, none of which may be a link: a guest may swap a
// folder for a link at any moment, also for one to a folder that it may not write to, and undo may.

// temporary begins the names of what undo stages, beside the place where it belongs.
const temporary = ".sbx-undo-tmp-"

// errTouched says that something else stands at a path than was seen there a moment ago.
var errTouched = errors.New("it changed meanwhile")

const noLink = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK

// openFolder opens a folder below the root, "." for that itself; the caller closes it.
func openFolder(root *os.Root, dir string) (*os.File, error) {
	f, err := root.Open(".")
	if err != nil || dir == "." {
		return f, err
	}
	for name := range strings.SplitSeq(dir, "/") {
		var fd int
		err := retry(func() (err error) {
			fd, err = unix.Openat(int(f.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|noLink, 0)
			return err
		})
		f.Close()
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		f = os.NewFile(uintptr(fd), dir)
	}
	return f, nil
}

// in runs f with the folder of a path and its name in it.
func in(root *os.Root, p string, f func(dir int, name string) error) error {
	dir, err := openFolder(root, path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(int(dir.Fd()), path.Base(p))
}

// openFile opens a regular file below the root for reading.
func openFile(root *os.Root, p string) (f *os.File, err error) {
	err = in(root, p, func(dir int, name string) error {
		f, err = openRegular(dir, name, unix.O_RDONLY)
		return err
	})
	return f, err
}

func openRegular(dir int, name string, flags int) (*os.File, error) {
	var fd int
	err := retry(func() (err error) { fd, err = unix.Openat(dir, name, flags|noLink, 0); return err })
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errTouched
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// current is what stands at a path now. Behind a link nothing does.
func current(root *os.Root, p string) (s State, err error) {
	err = in(root, p, func(dir int, name string) (err error) {
		s, err = look(dir, name)
		return err
	})
	for _, nothing := range []error{fs.ErrNotExist, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(err, nothing) {
			return State{Kind: None}, nil
		}
	}
	return s, err
}

func look(dir int, name string) (State, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return State{}, err
	}
	s := State{Kind: Other, Size: st.Size, MTime: mtime(&st), Ino: st.Ino}
	s.Mode, s.links = uint32(st.Mode)&0o7777, uint64(st.Nlink) //nolint:unconvert // darwin has other types
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Kind = File
	case unix.S_IFDIR:
		s.Kind, s.Size = Dir, 0
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return State{}, err
		}
		s.Kind, s.Target = Link, buf[:n]
	}
	return s, nil
}

// chmod sets the mode of a file or folder that is still of its kind.
func chmod(root *os.Root, p string, kind Kind, mode uint32) error {
	return in(root, p, func(dir int, name string) error {
		err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		flags := noLink // a kernel before Linux 6.6
		if kind == Dir {
			flags |= unix.O_DIRECTORY
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // it was only read
		return unix.Fchmod(fd, mode)
	})
}

func fresh() string {
	var id [8]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	return temporary + hex.EncodeToString(id[:])
}

func (u *Undoer) step(name string) error {
	if u.fail == nil {
		return nil
	}
	return u.fail(name)
}

// take removes what stands at a path: it is taken out of the way, looked at, and put back if it is not now.
func (u *Undoer) take(p string, now State) error {
	return in(u.Root, p, func(dir int, name string) error {
		if now.Kind == Dir {
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		away := fresh()
		if err := u.step("take"); err != nil {
			return err
		}
		if err := renameNew(dir, name, away); err != nil {
			return err
		}
		if err := u.step("taken"); err != nil {
			return err
		}
		if was, err := look(dir, away); err != nil || !was.same(now) {
			return errors.Join(errTouched, err, renameNew(dir, away, name))
		}
		return unix.Unlinkat(dir, away, 0)
	})
}

// write makes of a version what it was, in the place of now: staged beside its place, whole, and then exchanged.
// errTouched: something else than now stood there, and does so still.
func (u *Undoer) write(p string, want *version, now State) error {
	return in(u.Root, p, func(dir int, name string) error {
		if want.Kind == Dir {
			return u.makeFolder(dir, name, p, want)
		}
		staged := fresh()
		err := u.stage(dir, staged, want)
		if err == nil {
			err = u.step("staged")
		}
		if err == nil && now.Kind == File && now.links > 1 && now.Ino == want.Ino {
			err = u.overwrite(dir, name, want, now)
			return errors.Join(err, unix.Unlinkat(dir, staged, 0))
		}
		if err == nil {
			return u.place(dir, staged, name, now)
		}
		if errors.Is(err, errDied) {
			return err
		}
		if gone := unix.Unlinkat(dir, staged, 0); !errors.Is(gone, unix.ENOENT) {
			err = errors.Join(err, gone)
		}
		return err
	})
}

// errDied is what tests let a step end with: nothing is put right after it.
var errDied = errors.New("died here")

func (u *Undoer) makeFolder(dir int, name, p string, want *version) error {
	err := unix.Mkdirat(dir, name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return errTouched
	}
	if err != nil {
		return err
	}
	u.give(dir, name)
	u.opened = append(u.opened, folderMode{p, want.Mode & folderBits})
	return nil
}

// stage makes a file or link of a version at a name that is new.
func (u *Undoer) stage(dir int, name string, want *version) error {
	if want.Kind == Link {
		err := unix.Symlinkat(string(want.Target), dir, name)
		if err == nil {
			u.give(dir, name)
		}
		return err
	}
	in, err := u.History.open(want)
	if err != nil {
		return err
	}
	defer in.Close()
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|noLink, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), name)
	n, err := io.Copy(out, in)
	if err == nil && n < want.Size {
		err = fmt.Errorf("only %d of %d bytes were kept", n, want.Size)
	}
	u.give(dir, name)
	err = errors.Join(plainError(err), unix.Fchmod(fd, want.Mode&0o777))
	setMTime(dir, name, want.MTime)
	return errors.Join(err, plainError(out.Sync()), out.Close())
}

// plainError is an error without the staged file's name.
func plainError(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// give makes what root made the folder's owner's, where it may: else it is root's, which is better than nothing.
func (u *Undoer) give(dir int, name string) {
	if os.Geteuid() != 0 {
		return
	}
	top, err := openFolder(u.Root, ".")
	if err != nil {
		return
	}
	defer top.Close()
	var st unix.Stat_t
	if unix.Fstat(int(top.Fd()), &st) == nil && st.Uid != 0 {
		unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW) //nolint:errcheck // see above
	}
}

// place puts what is staged where now stands.
func (u *Undoer) place(dir int, staged, name string, now State) error {
	drop := func(err error) error { return errors.Join(err, unix.Unlinkat(dir, staged, 0)) }
	if now.Kind == None {
		err := renameNew(dir, staged, name)
		if errors.Is(err, unix.EEXIST) {
			return drop(errTouched)
		}
		if err != nil {
			return drop(err)
		}
		return u.step("placed")
	}
	err := exchange(dir, staged, name)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return unix.Renameat(dir, staged, dir, name)
	case errors.Is(err, unix.ENOENT):
		return drop(errTouched)
	case err != nil:
		return drop(err)
	}
	if err := u.step("exchanged"); err != nil {
		return err
	}
	if was, err := look(dir, staged); err != nil || !was.same(now) {
		if back := exchange(dir, staged, name); back != nil {
			return errors.Join(err, fmt.Errorf("what stood there is %q now: %w", staged, back))
		}
		return drop(errors.Join(errTouched, err))
	}
	return unix.Unlinkat(dir, staged, 0)
}

// overwrite changes a file that has more names than one where it is, so that all of them lead to what it was.
func (u *Undoer) overwrite(dir int, name string, want *version, now State) error {
	in, err := u.History.open(want)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := openRegular(dir, name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer out.Close()
	if is, err := look(dir, name); err != nil || !is.same(now) {
		return errors.Join(errTouched, err)
	}
	n, err := io.Copy(out, in)
	if err == nil {
		err = out.Truncate(n)
	}
	err = errors.Join(plainError(err), unix.Fchmod(int(out.Fd()), want.Mode&0o777))
	setMTime(dir, name, want.MTime)
	if is, lookErr := look(dir, name); lookErr == nil {
		u.History.byInode[is.Ino] = is // its other names have it now
	}
	return errors.Join(err, plainError(out.Sync()))
}

// setMTime sets a file's time, if the file system takes it: the content counts.
func setMTime(dir int, name string, at int64) {
	t := unix.NsecToTimespec(at)
	unix.UtimesNanoAt(dir, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW) //nolint:errcheck // see above
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
