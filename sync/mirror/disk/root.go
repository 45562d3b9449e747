//go:build unix

// Package disk is one copy of a mirrored folder, on the machine that it runs on: the
// host's side of a mirror, and the guest's, in its agent.
//
// A path is walked component by component from the folder's own descriptor, and no
// component may be a link, so that nothing outside is reached whatever is swapped for what
// meanwhile. What is written goes to a staging folder inside first and is exchanged with
// what it replaces; what came out by that is looked at before it is thrown away, and
// goes back if it is not what was to be replaced. There is no moment in which a file
// is half there, or is lost.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/tree"
)

// StageDir is the folder at a copy's top that a mirror keeps its own files in. It is
// no part of the copy.
const StageDir = ".sbx-sync"

var (
	// ErrChanged says that what stands at a path is not what was to be replaced.
	ErrChanged = errors.New("it changed meanwhile")
	// ErrRoot says that the folder is not the one that was opened.
	ErrRoot = errors.New("the folder was moved or replaced")
)

// Options are a copy's limits.
type Options struct {
	Ignore  *Ignore
	MaxFile int64 // bytes of the largest file that is read, 0: 16 GiB
	MaxTree int   // paths, 0: 2,000,000
	// Fail is called between steps with the name of the next one; its error ends the
	// operation where it is, with nothing put right. Tests die in it.
	Fail func(step string) error
}

const (
	defaultMaxFile = 16 << 30
	defaultMaxTree = 2_000_000
	openFlags      = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
)

// Root is an open folder. Its methods may be called from any goroutine.
type Root struct {
	path  string
	dir   *os.File
	dev   uint64
	ino   uint64
	uid   int // who owns the folder, and gets what is made in it
	gid   int
	o     Options
	next  atomic.Uint64
	stage sync.Mutex // held while the staging folder is made or removed
}

// Open opens a folder. Close it after use.
func Open(path string, o Options) (*Root, error) {
	if o.MaxFile == 0 {
		o.MaxFile = defaultMaxFile
	}
	if o.MaxTree == 0 {
		o.MaxTree = defaultMaxTree
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	r := &Root{path: path, dir: os.NewFile(uintptr(fd), path), o: o}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		r.dir.Close()
		return nil, err
	}
	r.uid, r.gid = int(st.Uid), int(st.Gid)
	r.dev, r.ino = uint64(st.Dev), st.Ino //nolint:unconvert // darwin's is signed
	return r, nil
}

// Close gives the descriptor back.
func (r *Root) Close() error { return r.dir.Close() }

// Identity is the folder's own, while it exists.
func (r *Root) Identity() string { return fmt.Sprintf("%x:%x", r.dev, r.ino) }

// Check tells whether the folder's path still leads to it.
func (r *Root) Check() error {
	var st unix.Stat_t
	if err := unix.Lstat(r.path, &st); err != nil || uint64(st.Dev) != r.dev || st.Ino != r.ino { //nolint:unconvert // see Open
		return fmt.Errorf("%q: %w", r.path, ErrRoot)
	}
	return nil
}

// give makes what root made the folder's owner's.
func (r *Root) give(dir *os.File, name string) error {
	if os.Geteuid() != 0 || r.uid == 0 {
		return nil
	}
	return unix.Fchownat(int(dir.Fd()), name, r.uid, r.gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (r *Root) fail(step string) error {
	if r.o.Fail == nil {
		return nil
	}
	return r.o.Fail(step)
}

// folder opens a folder below the root; the caller closes it.
func (r *Root) folder(path string) (*os.File, error) {
	fd, err := unix.Openat(int(r.dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
	if err != nil || path == "" {
		return fileOf(fd, path, err)
	}
	for name := range strings.SplitSeq(path, "/") {
		if !tree.ValidName(name) {
			unix.Close(fd) //nolint:errcheck // it was only read
			return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EINVAL}
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
		unix.Close(fd) //nolint:errcheck // see above
		if err != nil {
			return fileOf(next, path, err)
		}
		fd = next
	}
	return fileOf(fd, path, nil)
}

func fileOf(fd int, path string, err error) (*os.File, error) {
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// parent opens the folder that a path is in and gives the name in it.
func (r *Root) parent(path string) (*os.File, string, error) {
	if !tree.ValidPath(path) {
		return nil, "", &fs.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	f, err := r.folder(dir)
	return f, name, err
}

// OpenFile opens a regular file for reading. Nothing that it finds makes it wait.
func (r *Root) OpenFile(path string) (*os.File, error) {
	dir, name, err := r.parent(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, _, err := openRegular(dir, name)
	return f, err
}

func openRegular(dir *os.File, name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, st, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd) //nolint:errcheck // it was only read
		return nil, st, &fs.PathError{Op: "open", Path: name, Err: ErrChanged}
	}
	f, err := fileOf(fd, name, nil)
	return f, st, err
}

func lstat(dir *os.File, name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}
