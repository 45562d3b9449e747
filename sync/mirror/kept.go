//go:build unix

package mirror

import (
	"fmt"
	"os"

	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// kept records what steps on the host's copy replace, so that it can be taken back. A nil
// one records nothing.
type kept struct {
	keeper journal.Keeper
	root   *os.Root
}

func openKept(root string, keeper journal.Keeper) (*kept, error) {
	if keeper == nil {
		return nil, nil
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	return &kept{keeper, r}, nil
}

func (k *kept) close() {
	if k != nil {
		k.root.Close()
	}
}

// before keeps what steps replace, and gives those that may be done with the reason for the others.
func (k *kept) before(steps []disk.Step) (todo []disk.Step, faults []error) {
	if k == nil {
		return steps, make([]error, len(steps))
	}
	faults = make([]error, len(steps))
	for i, s := range steps {
		faults[i] = k.keeper.KeepBefore(k.root, s.Path)
		if s.Op == tree.Rename && faults[i] == nil {
			faults[i] = k.keeper.KeepBefore(k.root, s.To)
		}
		if faults[i] == nil {
			todo = append(todo, s)
		} else {
			faults[i] = fmt.Errorf("what stands there cannot be kept: %w", faults[i])
		}
	}
	return todo, faults
}

// after notes what was done: what stands where a step failed is the user's.
func (k *kept) after(steps []disk.Step, results []error) {
	for i, s := range steps {
		if k == nil || results[i] != nil {
			continue
		}
		k.keeper.KeepAfter(k.root, s.Path)
		if s.Op == tree.Rename {
			k.keeper.KeepAfter(k.root, s.To)
		}
	}
}
