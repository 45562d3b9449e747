//go:build unix

package mirror

import (
	"context"

	"github.com/sbx-vm/sbx/sync/tree"
)

// begin reads the agreed state and both copies, and clears what a crash left.
func (e *engine) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	base, lost, err := e.memory.load(ctx)
	if err != nil {
		return err
	}
	if lost != "" {
		e.log.Info("no agreed state, nothing is deleted", "why", lost)
	}
	e.base, e.agreed = base, lost != ""
	e.h, e.g = tree.Tree{}, tree.Tree{}
	for p, entry := range base {
		if !e.masked(p, entry) { // the mask may be new
			e.h[p] = entry // their stamps
		}
	}
	e.compare()
	if err := e.look(ctx, []string{""}, []string{""}); err != nil {
		return err
	}
	saved, err := e.root.Recover(ctx, e.known())
	for _, name := range saved {
		e.log.Warn("an edit was caught in the middle of a crash: it is kept", "name", name)
	}
	if err != nil {
		return err
	}
	return e.look(ctx, saved, nil)
}

// known tells of content that stands in a copy, or was agreed to be replaced.
func (e *engine) known() func(tree.Entry) bool {
	files, links := map[tree.Hash]bool{}, map[string]bool{}
	for _, t := range []tree.Tree{e.base, e.h, e.g} {
		for _, entry := range t {
			switch entry.Kind {
			case tree.File:
				files[entry.Hash] = true
			case tree.Link:
				links[entry.Target] = true
			}
		}
	}
	return func(entry tree.Entry) bool {
		return entry.Kind == tree.File && files[entry.Hash] || entry.Kind == tree.Link && links[entry.Target]
	}
}
