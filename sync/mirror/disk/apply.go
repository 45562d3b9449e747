//go:build unix

package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/tree"
)

// Step is an action on this copy. Staged is the file that a Put of a file places.
type Step struct {
	tree.Action
	Staged string
}

// Apply carries one step out, or leaves everything as it was and says why:
// ErrChanged if something else than expected stands there.
func (r *Root) Apply(ctx context.Context, s Step) error {
	if err := r.apply(ctx, s); err != nil {
		return fmt.Errorf("%v %q: %w", s.Op, s.Path, reason(err))
	}
	return nil
}

func (r *Root) apply(ctx context.Context, s Step) error {
	if Reserved(s.Path) || s.Op == tree.Rename && Reserved(s.To) {
		return errors.New("the name is the mirror's own")
	}
	dir, name, err := r.parent(s.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := r.fail(s.Op.String()); err != nil {
		return err
	}
	switch s.Op {
	case tree.Make:
		err := unix.Mkdirat(int(dir.Fd()), name, 0o777)
		if st, statErr := lstat(dir, name); errors.Is(err, fs.ErrExist) && statErr == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if err != nil {
			return changed(err)
		}
		return r.give(dir, name)
	case tree.RemoveFolder:
		return changed(unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
	case tree.Remove:
		return r.remove(ctx, dir, name, s.Have)
	case tree.Rename:
		return r.rename(ctx, dir, name, s)
	case tree.Put:
		return r.put(ctx, dir, name, s)
	}
	return fs.ErrInvalid
}

// changed names the errors that mean another state than expected.
func changed(err error) error {
	for _, is := range []error{unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.ENOENT, unix.EISDIR} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w (%w)", ErrChanged, err)
		}
	}
	return err
}

// look reads what stands at a name.
func (r *Root) look(ctx context.Context, dir *os.File, name string) (tree.Entry, error) {
	st, err := lstat(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Entry{}, nil
	}
	if err != nil {
		return tree.Entry{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return tree.Entry{Kind: tree.Folder}, nil
	case unix.S_IFLNK:
		target, err := readLink(dir, name)
		return tree.Entry{Kind: tree.Link, Target: target}, err
	case unix.S_IFREG:
		return hashFile(ctx, dir, name)
	}
	return unknown("neither file, folder nor link"), nil
}

// still tells whether what stands at a name is what was seen before.
func (r *Root) still(ctx context.Context, dir *os.File, name string, have tree.Entry) error {
	now, err := r.look(ctx, dir, name)
	if err != nil {
		return err
	}
	if !tree.Same(now, have) {
		return ErrChanged
	}
	return nil
}

// remove takes a name out of the way, looks at what it was, and only then deletes it.
func (r *Root) remove(ctx context.Context, dir *os.File, name string, have tree.Entry) error {
	if err := r.still(ctx, dir, name, have); err != nil {
		return err
	}
	stage, err := r.staging()
	if err != nil {
		return err
	}
	defer stage.Close()
	out := r.fresh(complete)
	if err := renameNew(int(dir.Fd()), name, int(stage.Fd()), out); err != nil {
		return changed(err)
	}
	if err := r.fail("removed"); err != nil {
		return err
	}
	if err := r.still(ctx, stage, out, have); err != nil {
		return errors.Join(err, renameNew(int(stage.Fd()), out, int(dir.Fd()), name))
	}
	return unix.Unlinkat(int(stage.Fd()), out, 0)
}

// rename also changes the case alone, where the file system takes both for one name.
func (r *Root) rename(ctx context.Context, dir *os.File, name string, s Step) error {
	if err := r.still(ctx, dir, name, s.Have); err != nil {
		return err
	}
	if path.Dir(s.Path) != path.Dir(s.To) {
		return fs.ErrInvalid
	}
	to := path.Base(s.To)
	err := renameNew(int(dir.Fd()), name, int(dir.Fd()), to)
	if !errors.Is(err, fs.ErrExist) {
		return changed(err)
	}
	a, errA := lstat(dir, name)
	b, errB := lstat(dir, to)
	if errA != nil || errB != nil || a.Ino != b.Ino || a.Dev != b.Dev || a.Nlink > 1 && a.Mode&unix.S_IFMT != unix.S_IFDIR {
		return ErrChanged
	}
	return unix.Renameat(int(dir.Fd()), name, int(dir.Fd()), to)
}

// put places a staged file, or a link, where have stands.
func (r *Root) put(ctx context.Context, dir *os.File, name string, s Step) error {
	stage, err := r.staging()
	if err != nil {
		return err
	}
	defer stage.Close()
	ready := r.fresh(complete)
	if s.Want.Kind == tree.Link {
		err = unix.Symlinkat(s.Want.Target, int(stage.Fd()), ready)
	} else {
		err = r.finish(stage, s, ready)
	}
	if err == nil {
		err = r.give(stage, ready)
	}
	if err != nil {
		return err
	}
	if err := r.fail("ready"); err != nil {
		return err
	}
	if s.Have.Kind == tree.None {
		if err := renameNew(int(stage.Fd()), ready, int(dir.Fd()), name); err != nil {
			return errors.Join(changed(err), unix.Unlinkat(int(stage.Fd()), ready, 0))
		}
		return r.fail("placed")
	}
	return r.replace(ctx, stage, ready, dir, name, s.Have)
}

// finish gives a staged file its mode, and the name by which a crash finds it complete.
func (r *Root) finish(stage *os.File, s Step, ready string) error {
	if s.Want.Kind != tree.File || !ValidStaged(s.Staged) {
		return fs.ErrInvalid
	}
	f, _, err := openRegular(stage, s.Staged)
	if err != nil {
		return err
	}
	defer f.Close()
	mode := fs.FileMode(0o644)
	if s.Want.Exec {
		mode = 0o755
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return renameNew(int(stage.Fd()), s.Staged, int(stage.Fd()), ready)
}

// replace exchanges, and looks at what came out before it is thrown away.
func (r *Root) replace(ctx context.Context, stage *os.File, ready string, dir *os.File, name string, have tree.Entry) error {
	drop := func(err error) error { return errors.Join(err, unix.Unlinkat(int(stage.Fd()), ready, 0)) }
	if err := r.still(ctx, dir, name, have); err != nil {
		return drop(err)
	}
	err := exchange(int(stage.Fd()), ready, int(dir.Fd()), name)
	if errors.Is(err, errors.ErrUnsupported) {
		return unix.Renameat(int(stage.Fd()), ready, int(dir.Fd()), name)
	}
	if err != nil {
		return drop(changed(err))
	}
	if err := r.fail("exchanged"); err != nil {
		return err
	}
	if err := r.still(ctx, stage, ready, have); err != nil {
		if back := exchange(int(stage.Fd()), ready, int(dir.Fd()), name); back != nil {
			return errors.Join(err, back) // both are there: Recover finds the other
		}
		return drop(err)
	}
	return unix.Unlinkat(int(stage.Fd()), ready, 0)
}

// Flush writes what was changed to the disk.
func (r *Root) Flush() error {
	if err := r.fail("flush"); err != nil {
		return err
	}
	return flush(int(r.dir.Fd()))
}

// inParallel is how many files are placed at a time: what each waits for is the disk.
const inParallel = 8

// ApplyAll carries steps out in order, but files and links, which come last, at once. Each
// step has its own error.
func (r *Root) ApplyAll(ctx context.Context, steps []Step) []error {
	out := make([]error, len(steps))
	var puts errgroup.Group
	puts.SetLimit(inParallel)
	for i, s := range steps {
		if s.Op != tree.Put {
			puts.Wait() //nolint:errcheck // each has its own
			out[i] = r.Apply(ctx, s)
			continue
		}
		puts.Go(func() error {
			out[i] = r.Apply(ctx, s)
			return nil
		})
	}
	puts.Wait() //nolint:errcheck // see above
	return out
}
