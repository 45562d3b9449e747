//go:build unix

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

func (c *Client) write(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.stream.Write(append(data, '\n'))
	return err
}

// call asks one question. A call whose context ends before its answer ends the stream:
// what would come later belongs to no question.
func (c *Client) call(ctx context.Context, q request, each func(reply) error) error {
	select {
	case <-c.calls:
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { c.calls <- struct{}{} }()
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	c.next++
	q.ID = c.next
	if err := c.write(q); err != nil {
		c.kill()
		return fmt.Errorf("the guest's agent: %w", err)
	}
	for {
		select {
		case r := <-c.replies:
			err := c.check(r, q, each)
			if errors.Is(err, errHostile) {
				c.kill()
			}
			if err != nil || !r.More {
				return err
			}
		case <-c.done:
			return errors.Join(ctx.Err(), c.Err())
		}
	}
}

func (c *Client) check(r reply, q request, each func(reply) error) error {
	switch {
	case r.ID != q.ID || r.More && q.Op != opScan:
		return fmt.Errorf("%w: answer %d to question %d", errHostile, r.ID, q.ID)
	case r.Error != "":
		return fmt.Errorf("the guest: %q", bounded(r.Error))
	case each != nil:
		return each(r)
	}
	return nil
}

// Scan reads what stands at and below the paths in the guest. Names that are none, or
// stand where nothing can, end it.
func (c *Client) Scan(ctx context.Context, paths []string) (tree.Tree, error) {
	q, out := request{Op: opScan}, tree.Tree{}
	for _, p := range paths {
		q.Paths = append(q.Paths, []byte(p))
	}
	err := c.call(ctx, q, func(r reply) error {
		for _, w := range r.Entries {
			p := string(w.Path)
			e, err := w.entry()
			if err != nil {
				return err
			}
			if !tree.ValidPath(p) || disk.Reserved(p) || !asked(p, paths) || len(out) >= c.maxTree {
				return fmt.Errorf("%w: entry %.200q", errHostile, p)
			}
			out[p] = e
		}
		return nil
	})
	if err == nil {
		err = rooted(out, paths)
	}
	return out, err
}

func asked(p string, paths []string) bool {
	for _, q := range paths {
		if tree.Within(p, q) {
			return true
		}
	}
	return false
}

// rooted tells whether each entry stands in a folder that was told of too.
func rooted(t tree.Tree, paths []string) error {
	top := map[string]bool{}
	for _, p := range paths {
		top[p] = true
	}
	for p := range t {
		if dir := tree.Dir(p); !top[p] && dir != "" && t[dir].Kind != tree.Folder {
			return fmt.Errorf("%w: %.200q is in no folder", errHostile, p)
		}
	}
	return nil
}

// Sums are the hashes of a file's pieces of disk.Block bytes.
func (c *Client) Sums(ctx context.Context, path string, most int) (out []tree.Hash, err error) {
	err = c.call(ctx, request{Op: opSums, Paths: [][]byte{[]byte(path)}}, func(r reply) error {
		if len(r.Hashes) > most {
			return fmt.Errorf("%w: %d pieces of at most %d", errHostile, len(r.Hashes), most)
		}
		for _, h := range r.Hashes {
			if len(h) != len(tree.Hash{}) {
				return fmt.Errorf("%w: hash of %d bytes", errHostile, len(h))
			}
			out = append(out, tree.Hash(h))
		}
		return nil
	})
	return out, err
}

// Clone copies a file of the guest to its staging folder and gives the name there.
func (c *Client) Clone(ctx context.Context, path string) (name string, err error) {
	err = c.call(ctx, request{Op: opClone, Paths: [][]byte{[]byte(path)}}, func(r reply) error {
		if name = r.Text; !disk.ValidStaged(name) {
			return fmt.Errorf("%w: staged name %.200q", errHostile, name)
		}
		return nil
	})
	return name, err
}

// Staged hashes a file in the guest's staging folder.
func (c *Client) Staged(ctx context.Context, name string) (e tree.Entry, err error) {
	err = c.call(ctx, request{Op: opStaged, Name: name}, func(r reply) error {
		if len(r.Entries) != 1 {
			return fmt.Errorf("%w: %d entries", errHostile, len(r.Entries))
		}
		e, err = r.Entries[0].entry()
		return err
	})
	return e, err
}

// Drop forgets a staged file.
func (c *Client) Drop(ctx context.Context, name string) error {
	return c.call(ctx, request{Op: opDrop, Name: name}, nil)
}

// perCall is how many steps go in one question, so that its line is in bounds.
const perCall = 256

// Apply carries steps out in order; each has its own error.
func (c *Client) Apply(ctx context.Context, steps []disk.Step) ([]error, error) {
	var out []error
	for len(steps) > 0 {
		q := request{Op: opApply}
		n := min(len(steps), perCall)
		for _, s := range steps[:n] {
			q.Steps = append(q.Steps, toStep(s))
		}
		err := c.call(ctx, q, func(r reply) error {
			if len(r.Faults) != n {
				return fmt.Errorf("%w: %d results of %d steps", errHostile, len(r.Faults), n)
			}
			for _, f := range r.Faults {
				out = append(out, f.err())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		steps = steps[n:]
	}
	return out, nil
}

func (f fault) err() error {
	switch {
	case f.Changed:
		return fmt.Errorf("in the guest: %w: %q", disk.ErrChanged, bounded(f.Text))
	case f.Text != "":
		return fmt.Errorf("in the guest: %q", bounded(f.Text))
	}
	return nil
}

// Flush has the guest's kernel write to its disk what was changed.
func (c *Client) Flush(ctx context.Context) error { return c.call(ctx, request{Op: opFlush}, nil) }

// Mark reads what SetMark left.
func (c *Client) Mark(ctx context.Context) (mark string, err error) {
	err = c.call(ctx, request{Op: opMark}, func(r reply) error { mark = bounded(r.Text); return nil })
	return mark, err
}

// SetMark leaves a line in the guest's copy.
func (c *Client) SetMark(ctx context.Context, mark string) error {
	return c.call(ctx, request{Op: opSetMark, Name: mark}, nil)
}

// Prepare clears what a crash left in the guest's staging folder, and makes the folder.
func (c *Client) Prepare(ctx context.Context) error {
	return c.call(ctx, request{Op: opPrepare}, nil)
}
