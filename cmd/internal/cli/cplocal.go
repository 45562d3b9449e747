package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// localTree is a folder of the host. os.Root keeps every operation below it: the
// folder may be a workspace whose guest swaps folders for links while we copy.
type localTree struct{ root *os.Root }

func (t localTree) Lstat(name string) (fs.FileInfo, error) {
	return t.root.Lstat(filepath.FromSlash(name))
}

func (t localTree) ReadDir(name string) ([]fs.FileInfo, error) {
	dir, err := t.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdir(-1)
}

func (t localTree) ReadLink(name string) (string, error) {
	return t.root.Readlink(filepath.FromSlash(name))
}

// Open opens a regular file without waiting for a writer of a pipe that took its place.
func (t localTree) Open(name string) (io.ReadCloser, error) {
	return t.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func (t localTree) Mkdir(name string) error {
	if name == "." {
		return nil
	}
	err := t.root.Mkdir(name, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, statErr := t.root.Lstat(name)
	if statErr != nil {
		return statErr
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is there and is not a folder", name)
	}
	return nil
}

func (t localTree) Symlink(target, name string) error {
	temp := t.tempName(name)
	if err := t.root.Symlink(target, temp); err != nil {
		return err
	}
	return t.replace(temp, name)
}

func (t localTree) WriteFile(name string, mode fs.FileMode, r io.Reader, size int64) error {
	temp := t.tempName(name)
	file, err := t.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, r)
	if err = checkSize(name, n, size, err); err == nil {
		err = file.Chmod(mode.Perm())
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, t.root.Remove(temp))
	}
	return t.replace(temp, name)
}

func (t localTree) Chmod(name string, mode fs.FileMode) error {
	if name == "." {
		return nil
	}
	return t.root.Chmod(name, mode.Perm())
}

// replace moves temp to name, unless a folder is there.
func (t localTree) replace(temp, name string) error {
	if info, err := t.root.Lstat(name); err == nil && info.IsDir() {
		return errors.Join(errIsFolder(name), t.root.Remove(temp))
	}
	if err := t.root.Rename(temp, name); err != nil {
		return errors.Join(err, t.root.Remove(temp))
	}
	return nil
}

// tempName is beside name, so that a rename stays on one file system.
func (t localTree) tempName(name string) string {
	return path.Join(path.Dir(name), ".sbx-"+rand.Text())
}
