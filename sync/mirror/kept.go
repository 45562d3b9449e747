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

func (k *kept) before(steps []disk.Step) { k.each(steps, journal.Keeper.KeepBefore) }
func (k *kept) after(steps []disk.Step)  { k.each(steps, journal.Keeper.KeepAfter) }

func (k *kept) each(steps []disk.Step, record func(journal.Keeper, *os.Root, string)) {
	if k == nil {
		return
	}
	for _, s := range steps {
		record(k.keeper, k.root, s.Path)
		if s.Op == tree.Rename {
			record(k.keeper, k.root, s.To)
		}
	}
}
