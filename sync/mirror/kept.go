//go:build unix

package mirror

import (
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

func (k *kept) before(steps []disk.Step) {
	for _, s := range steps {
		k.each(s, journal.Keeper.KeepBefore)
	}
}

// after notes what was done: what stands where a step failed is the user's.
func (k *kept) after(steps []disk.Step, results []error) {
	for i, s := range steps {
		if results[i] == nil {
			k.each(s, journal.Keeper.KeepAfter)
		}
	}
}

func (k *kept) each(s disk.Step, record func(journal.Keeper, *os.Root, string)) {
	if k == nil {
		return
	}
	record(k.keeper, k.root, s.Path)
	if s.Op == tree.Rename {
		record(k.keeper, k.root, s.To)
	}
}
