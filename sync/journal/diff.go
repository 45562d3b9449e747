package journal

import (
	"fmt"
	"os"
)

// Change is a path that the guest changed since a checkpoint.
type Change struct {
	Path   string
	Before State // what an undo would bring back
	Now    State
	Host   bool   // the host's user changed it since, so an undo leaves it
	Lost   string // why the content before was not kept, else empty
}

// Diff lists what the guest changed below root since a checkpoint of the journal in dir
// and what is not as it was, sorted by path.
func Diff(dir string, root *os.Root, checkpoint int) ([]Change, error) {
	journal, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("diff: %w", err)
	}
	defer journal.Close()
	all, err := collect(journal, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("diff: %w", err)
	}
	var changes []Change
	for _, c := range all {
		now, err := look(root, c.name)
		if err != nil {
			now = State{Kind: Other} // behind a link that leads out of the root
		}
		if now.same(c.before.State) {
			continue
		}
		host := err != nil || !c.noted || !now.same(c.left)
		changes = append(changes, Change{Path: c.name, Before: c.before.State, Now: now, Host: host, Lost: c.before.Lost})
	}
	return changes, nil
}
