//go:build unix

package disk

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/tree"
)

// Names in the staging folder: what is being written, which a crash makes worthless,
// and what a crash may leave there as the only copy, until Recover has looked at it.
const (
	writing  = "w-"
	complete = "s-"
	markFile = "pair"
	recovery = "sbx-recovered-"
)

// staging opens the staging folder, and makes it.
func (r *Root) staging() (*os.File, error) {
	r.stage.Lock()
	defer r.stage.Unlock()
	err := unix.Mkdirat(int(r.dir.Fd()), StageDir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make %s: %w", StageDir, err)
	}
	dir, openErr := r.folder(StageDir)
	if openErr != nil || err != nil {
		return dir, openErr
	}
	// The user's git is not to see it.
	fd, err := unix.Openat(int(dir.Fd()), ".gitignore", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|openFlags, 0o600)
	if err == nil {
		unix.Write(fd, []byte("*\n")) //nolint:errcheck // a courtesy
		unix.Close(fd)                //nolint:errcheck // see above
	}
	return dir, nil
}

func (r *Root) fresh(kind string) string {
	var id [6]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	return fmt.Sprintf("%s%d-%s", kind, r.next.Add(1), hex.EncodeToString(id[:]))
}

// ValidStaged tells whether a name is one that Stage gives.
func ValidStaged(name string) bool { return tree.ValidName(name) && strings.HasPrefix(name, writing) }

// Fresh is a name for a file that is written to the staging folder.
func (r *Root) Fresh() string { return r.fresh(writing) }

// Stage makes a file in the staging folder, to be written and then closed by the caller,
// and placed by Apply under the name that it got, or dropped.
func (r *Root) Stage() (*os.File, string, error) {
	dir, err := r.staging()
	if err != nil {
		return nil, "", err
	}
	defer dir.Close()
	name := r.Fresh()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|openFlags, 0o600)
	f, err := fileOf(fd, name, err)
	return f, name, err
}

// Drop forgets a staged file.
func (r *Root) Drop(name string) {
	if dir, err := r.staging(); err == nil {
		unix.Unlinkat(int(dir.Fd()), name, 0) //nolint:errcheck // Recover does it else
		dir.Close()
	}
}

// Clone copies what stands at a path to a staged file, for parts of it to be replaced.
func (r *Root) Clone(ctx context.Context, path string) (string, error) {
	from, err := r.OpenFile(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, name, err := r.Stage()
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, cancelable{ctx, from})
	return name, errors.Join(err, to.Close())
}

// Staged hashes a staged file.
func (r *Root) Staged(ctx context.Context, name string) (tree.Entry, error) {
	dir, err := r.staging()
	if err != nil {
		return tree.Entry{}, err
	}
	defer dir.Close()
	return hashFile(ctx, dir, name)
}

// Recover clears the staging folder of what a crash left. What stands neither in one
// of the copies nor is known to have been replaced on purpose was the user's, caught in the
// middle of an exchange: it gets a name in the folder, which is given.
func (r *Root) Recover(ctx context.Context, known func(tree.Entry) bool) (saved []string, err error) {
	dir, err := r.folder(StageDir)
	if err != nil {
		return nil, nil //nolint:nilerr // there is none
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		to := ""
		if strings.HasPrefix(name, complete) {
			if to, err = r.unknownOf(ctx, dir, name, known); err != nil {
				return saved, err
			}
		}
		switch {
		case to != "":
			if err := renameNew(int(dir.Fd()), name, int(r.dir.Fd()), to); err != nil {
				return saved, fmt.Errorf("recover %q: %w", name, err)
			}
			saved = append(saved, to)
		case name != markFile && name != ".gitignore":
			if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
				return saved, fmt.Errorf("clear %q: %w", name, err)
			}
		}
	}
	return saved, nil
}

// unknownOf gives the name to keep a staged file under, or "".
func (r *Root) unknownOf(ctx context.Context, dir *os.File, name string, known func(tree.Entry) bool) (string, error) {
	e, err := r.look(ctx, dir, name)
	if err != nil || known(e) {
		return "", err
	}
	id := e.Hash
	if e.Kind == tree.Link {
		id = sha256.Sum256([]byte(e.Target))
	}
	return recovery + hex.EncodeToString(id[:6]), nil
}

// Tidy removes the staging folder if there is nothing in it that matters.
func (r *Root) Tidy() {
	r.stage.Lock()
	defer r.stage.Unlock()
	dir, err := r.folder(StageDir)
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(3)
	if (err == nil || errors.Is(err, io.EOF)) && len(names) == 1 && names[0] == ".gitignore" {
		unix.Unlinkat(int(dir.Fd()), ".gitignore", 0)               //nolint:errcheck // then it stays
		unix.Unlinkat(int(r.dir.Fd()), StageDir, unix.AT_REMOVEDIR) //nolint:errcheck // see above
	}
}

// maxMark bounds what Mark reads.
const maxMark = 256

// Mark reads what SetMark left in the copy; "" if nothing.
func (r *Root) Mark() string {
	dir, err := r.folder(StageDir)
	if err != nil {
		return ""
	}
	defer dir.Close()
	f, _, err := openRegular(dir, markFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMark))
	if err != nil {
		return ""
	}
	return string(data)
}

// SetMark leaves a line in the copy that tells it from others, and from an empty folder
// that stands in its place.
func (r *Root) SetMark(mark string) error {
	f, name, err := r.Stage()
	if err != nil {
		return err
	}
	_, err = f.WriteString(mark)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir, err := r.staging()
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Renameat(int(dir.Fd()), name, int(dir.Fd()), markFile)
}

// Reopen opens a staged file for writing again.
func (r *Root) Reopen(name string) (*os.File, error) {
	dir, err := r.staging()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|openFlags, 0)
	return fileOf(fd, name, err)
}

// Free is how many bytes may still be written to the folder's file system, and how many it has in all.
func (r *Root) Free() (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(r.dir.Fd()), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil //nolint:unconvert // the types differ by system
}

// ReadStaged reads a staged file of at most so many bytes.
func (r *Root) ReadStaged(name string, most int64) ([]byte, error) {
	f, err := r.Reopen(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMost(f, most)
}

// ReadFile reads a file of at most so many bytes; nil if there is none.
func (r *Root) ReadFile(path string, most int64) ([]byte, error) {
	f, err := r.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMost(f, most)
}

func readMost(f io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("more than %d bytes", most)
	}
	return data, err
}

// Escapes tells whether a link leads out of the folder, by what the kernel makes of it
// and of the links on its way.
func (r *Root) Escapes(path string) bool {
	root, err := os.OpenRoot(r.path)
	if err != nil {
		return true
	}
	defer root.Close()
	f, err := root.Stat(path)
	return f == nil && err != nil && strings.Contains(err.Error(), "escapes")
}
