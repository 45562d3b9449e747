//go:build unix

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// replica is one of the two copies. Its calls are bounded by their contexts.
type replica interface {
	// Scan reads what stands at and below the paths; known is what it found before.
	Scan(ctx context.Context, paths []string, known tree.Tree) (tree.Tree, error)
	// Open opens a file for reading; the caller closes it.
	Open(ctx context.Context, path string) (source, error)
	// Sums are the hashes of a file's pieces, of which there are at most so many.
	Sums(ctx context.Context, path string, most int) ([]tree.Hash, error)
	// Stage makes a file to write, with the content of the one at clone if that is a path.
	Stage(ctx context.Context, clone string) (target, error)
	// Drop forgets a staged file.
	Drop(ctx context.Context, name string)
	// Apply carries steps out in order; each has its own error. The second error ends the session.
	Apply(ctx context.Context, steps []disk.Step) ([]error, error)
	// Flush writes what was changed to the disk.
	Flush(ctx context.Context) error
}

// source is an open file. A read behind its end says io.EOF.
type source interface {
	io.ReaderAt
	io.Closer
}

// target is a staged file being written.
type target interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Staged is the name to give to Apply.
	Staged() string
	// Verify tells whether what was written has the hash. It is called after Close.
	Verify(ctx context.Context, want tree.Entry) error
}

// local is the copy on this machine.
type local struct {
	*disk.Root
	// each says that every staged file is written to the disk as it is closed: quicker
	// than Flush for a few.
	each *atomic.Bool
	kept *kept
}

func (l local) Open(_ context.Context, path string) (source, error) { return l.OpenFile(path) }

func (l local) Sums(ctx context.Context, path string, most int) ([]tree.Hash, error) {
	sums, err := l.Root.Sums(ctx, path)
	if err == nil && len(sums) > most {
		return nil, disk.ErrChanged
	}
	return sums, err
}

func (l local) Stage(ctx context.Context, clone string) (target, error) {
	if clone == "" {
		f, name, err := l.Root.Stage()
		return &localTarget{f, l.Root, name, l.each.Load()}, err
	}
	name, err := l.Clone(ctx, clone)
	if err != nil {
		return nil, err
	}
	f, err := l.Reopen(name)
	return &localTarget{f, l.Root, name, l.each.Load()}, err
}

func (l local) Drop(_ context.Context, name string) { l.Root.Drop(name) }

func (l local) Apply(ctx context.Context, steps []disk.Step) ([]error, error) {
	todo, results := l.kept.before(steps)
	done := l.ApplyAll(ctx, todo)
	for i, next := 0, 0; i < len(steps); i++ {
		if results[i] == nil {
			results[i] = done[next]
			next++
		} else if s := steps[i]; s.Staged != "" {
			l.Root.Drop(s.Staged)
		}
	}
	l.kept.after(steps, results)
	return results, l.Check()
}

func (l local) Flush(context.Context) error { return l.Root.Flush() }

type localTarget struct {
	*os.File
	root *disk.Root
	name string
	sync bool
}

func (t *localTarget) Close() error {
	var err error
	if t.sync {
		err = t.Sync()
	}
	return errors.Join(err, t.File.Close())
}

func (t *localTarget) Staged() string { return t.name }

func (t *localTarget) Verify(ctx context.Context, want tree.Entry) error {
	return verify(ctx, t.root.Staged, t.name, want)
}

func verify(ctx context.Context, staged func(context.Context, string) (tree.Entry, error), name string, want tree.Entry) error {
	got, err := staged(ctx, name)
	if err != nil {
		return err
	}
	if got.Kind != tree.File || got.Hash != want.Hash || got.Size != want.Size {
		return fmt.Errorf("%w: what arrived is not what was there", disk.ErrChanged)
	}
	return nil
}
