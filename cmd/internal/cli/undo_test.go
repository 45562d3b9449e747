package cli

import (
	"testing"

	"github.com/sbx-vm/sbx/sync/journal"
)

// TestSince: an undo without a number goes back to what the user or a start made, not to what an undo did.
func TestSince(t *testing.T) {
	k := &kept{checkpoints: []journal.Checkpoint{
		{ID: 3, Label: "up"}, {ID: 4, Label: "run"}, {ID: 5, Label: beforeUndo + "4"}, {ID: 6, Label: "undo to 4", Undo: true},
	}}
	for asked, want := range map[int]int{0: 4, 3: 3, 5: 5, 6: 6} {
		if id, err := k.since(asked); err != nil || id != want {
			t.Errorf("%d: %d, %v; want %d", asked, id, err, want)
		}
	}
	if _, err := k.since(7); err == nil {
		t.Error("a checkpoint that is none is taken")
	}
}
