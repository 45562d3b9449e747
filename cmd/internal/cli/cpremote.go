package cli

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"
)

// remoteTree is the guest's file system below base, over SFTP. Every answer of the
// guest is checked: the client library hands out what a hostile server says.
type remoteTree struct {
	client *sftp.Client
	base   string // absolute
}

func (t remoteTree) path(name string) string { return path.Join(t.base, name) }

func (t remoteTree) Lstat(name string) (fs.FileInfo, error) {
	info, err := t.client.Lstat(t.path(name))
	return info, t.named(name, err)
}

func (t remoteTree) ReadDir(name string) ([]fs.FileInfo, error) {
	all, err := t.client.ReadDir(t.path(name))
	if err != nil {
		return nil, t.named(name, err)
	}
	entries := make([]fs.FileInfo, 0, len(all))
	for _, entry := range all {
		// Many servers list these two; they are nothing to copy.
		if entry.Name() == "." || entry.Name() == ".." {
			continue
		}
		if err := component(entry.Name()); err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (t remoteTree) ReadLink(name string) (string, error) {
	target, err := t.client.ReadLink(t.path(name))
	return target, t.named(name, err)
}

func (t remoteTree) Open(name string) (io.ReadCloser, error) {
	file, err := t.client.Open(t.path(name))
	if err != nil {
		return nil, t.named(name, err)
	}
	// A buffer larger than a packet makes the client ask for several at once.
	return bufferedFile{bufio.NewReaderSize(file, 512<<10), file}, nil
}

type bufferedFile struct {
	io.Reader
	io.Closer
}

func (t remoteTree) Mkdir(name string) error {
	info, err := t.client.Lstat(t.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.named(name, t.client.Mkdir(t.path(name)))
	case err != nil:
		return t.named(name, err)
	case !info.IsDir():
		return fmt.Errorf("%q is there in the guest and is not a folder", t.path(name))
	}
	return nil
}

func (t remoteTree) Symlink(target, name string) error {
	temp := t.tempName(name)
	if err := t.client.Symlink(target, temp); err != nil {
		return t.named(name, err)
	}
	return t.replace(temp, name)
}

func (t remoteTree) WriteFile(name string, mode fs.FileMode, r io.Reader, size int64) error {
	temp := t.tempName(name)
	err := t.write(temp, mode, r, size)
	if err != nil {
		t.client.Remove(temp) //nolint:errcheck // what went wrong before is what matters
		return t.named(name, err)
	}
	return t.replace(temp, name)
}

func (t remoteTree) write(temp string, mode fs.FileMode, r io.Reader, size int64) error {
	file, err := t.client.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, r)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := checkSize(temp, n, size, nil); err != nil {
		return err
	}
	info, err := t.client.Lstat(temp)
	if err != nil {
		return err
	}
	if err := checkSize(temp, info.Size(), size, nil); err != nil {
		return err
	}
	return t.client.Chmod(temp, mode.Perm())
}

func (t remoteTree) Chmod(name string, mode fs.FileMode) error {
	if name == "." {
		return nil
	}
	return t.named(name, t.client.Chmod(t.path(name), mode.Perm()))
}

// replace moves temp to name, unless a folder is there.
func (t remoteTree) replace(temp, name string) error {
	if info, err := t.client.Lstat(t.path(name)); err == nil && info.IsDir() {
		return errors.Join(errIsFolder(t.path(name)), t.client.Remove(temp))
	}
	if err := t.client.PosixRename(temp, t.path(name)); err != nil {
		return errors.Join(t.named(name, err), t.client.Remove(temp))
	}
	return nil
}

func (t remoteTree) tempName(name string) string {
	return path.Join(path.Dir(t.path(name)), ".sbx-"+rand.Text())
}

func (t remoteTree) named(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q in the guest: %w", t.path(name), err)
}
