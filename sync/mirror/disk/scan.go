//go:build unix

package disk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/tree"
)

// racy is how long after a change another one may leave the same times: two seconds
// on VFAT, a tick of the kernel elsewhere. What was read so soon is read again.
const racy = 2 * time.Second

// Scan reads what stands at and below the paths; the empty path is everything. A file
// whose stamp is that of known is not read again. What cannot be read is Unknown.
func (r *Root) Scan(ctx context.Context, paths []string, known tree.Tree) (tree.Tree, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	s := &scan{root: r, ctx: ctx, known: known, out: tree.Tree{}}
	s.readers.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range paths {
		if p != "" && (!tree.ValidPath(p) || r.skipped(p)) {
			continue
		}
		if err := s.from(p); err != nil {
			return nil, errors.Join(err, s.readers.Wait())
		}
	}
	if err := s.readers.Wait(); err != nil {
		return nil, err
	}
	return s.out, ctx.Err()
}

type scan struct {
	root    *Root
	ctx     context.Context
	known   tree.Tree
	readers errgroup.Group

	mu  sync.Mutex
	out tree.Tree
}

// skipped tells whether a path is below something that is not mirrored.
func (r *Root) skipped(p string) bool {
	for i := range len(p) + 1 {
		if i < len(p) && p[i] != '/' {
			continue
		}
		if r.skip(p[:i], i < len(p)) {
			return true
		}
	}
	return false
}

func (r *Root) skip(p string, folder bool) bool {
	return Reserved(p) || r.o.Ignore.Match(p, folder)
}

// Reserved tells whether a path is the mirror's own, on any file system: StageDir, and
// what begins like it.
func Reserved(p string) bool {
	return len(p) >= len(StageDir) && strings.EqualFold(p[:len(StageDir)], StageDir)
}

func (s *scan) from(p string) error {
	if p == "" {
		dir, err := s.root.folder("")
		if err != nil {
			return err
		}
		return s.content(dir, "")
	}
	dir, name, err := s.root.parent(p)
	if err != nil {
		return nil //nolint:nilerr // what is above is no folder: there is nothing
	}
	defer dir.Close()
	return s.entry(dir, name, p)
}

// content reads a folder and closes it.
func (s *scan) content(dir *os.File, p string) error {
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if err := s.entry(dir, name, path.Join(p, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return s.ctx.Err()
		}
		if err != nil {
			return s.add(p, unknown("%v", reason(err)))
		}
	}
}

func unknown(format string, args ...any) tree.Entry {
	return tree.Entry{Kind: tree.Unknown, Target: fmt.Sprintf(format, args...)}
}

func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (s *scan) add(p string, e tree.Entry) error {
	if p == "" {
		return errors.New(e.Target)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out[p] = e
	if len(s.out) > s.root.o.MaxTree {
		return fmt.Errorf("more than %d files and folders: ignore some", s.root.o.MaxTree)
	}
	return nil
}

func (s *scan) entry(dir *os.File, name, p string) error {
	st, err := lstat(dir, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && s.root.skip(p, st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		return nil
	}
	if err != nil || !tree.ValidPath(p) {
		return s.add(p, unknown("cannot be looked at: %v", err))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
		if err != nil {
			return s.add(p, unknown("cannot be read: %v", err))
		}
		if err := s.add(p, tree.Entry{Kind: tree.Folder}); err != nil {
			unix.Close(fd) //nolint:errcheck // it was only read
			return err
		}
		return s.content(os.NewFile(uintptr(fd), p), p)
	case unix.S_IFREG:
		return s.file(p, &st)
	case unix.S_IFLNK:
		target, err := readLink(dir, name)
		if err != nil {
			return s.add(p, unknown("cannot be read: %v", err))
		}
		return s.add(p, tree.Entry{Kind: tree.Link, Target: target})
	}
	return s.add(p, unknown("neither file, folder nor link"))
}

func readLink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (s *scan) file(p string, st *unix.Stat_t) error {
	if st.Size > s.root.o.MaxFile {
		return s.add(p, unknown("larger than %d bytes", s.root.o.MaxFile))
	}
	if old := s.known[p]; old.Kind == tree.File && old.Stamp == stamp(st) && old.Size == st.Size && old.Exec == executable(st) && old.Stamp.Inode != 0 {
		return s.add(p, old)
	}
	s.readers.Go(func() error {
		e, err := s.root.read(s.ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			e = unknown("cannot be read: %v", reason(err))
		}
		return s.add(p, e)
	})
	return nil
}

func executable(st *unix.Stat_t) bool { return st.Mode&unix.S_IXUSR != 0 }

// read hashes a file. One that changes meanwhile is Unknown: its next event brings it.
func (r *Root) read(ctx context.Context, p string) (tree.Entry, error) {
	dir, name, err := r.parent(p)
	if err != nil {
		return tree.Entry{}, err
	}
	defer dir.Close()
	return hashFile(ctx, dir, name)
}

func hashFile(ctx context.Context, dir *os.File, name string) (tree.Entry, error) {
	f, before, err := openRegular(dir, name)
	if err != nil {
		return tree.Entry{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(cancelable{ctx, f}, before.Size+1))
	if err != nil {
		return tree.Entry{}, err
	}
	var after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return tree.Entry{}, err
	}
	if n != before.Size || stamp(&before) != stamp(&after) {
		return unknown("it changes while it is read"), nil
	}
	e := tree.Entry{Kind: tree.File, Exec: executable(&after), Size: n, Stamp: stamp(&after)}
	h.Sum(e.Hash[:0])
	if age := time.Since(time.Unix(0, e.Stamp.CTime)); age < racy {
		e.Stamp = tree.Stamp{}
	}
	return e, nil
}

// cancelable ends a long read with its context.
type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
