package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
)

// marked is a change of `sbx diff --json`.
type marked struct {
	journal.Change
	Runs string `json:"runs,omitempty"` // why a tool of the user's runs or obeys it
}

// markedWaiting is the same in mode review.
type markedWaiting struct {
	control.Change
	Runs string `json:"runs,omitempty"`
}

// runsNote is how a reason stands in a listing.
func runsNote(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// reasons gives, by the IDs of changes that wait in the guest, why a tool of the user's would run them. That a file is
// executable is a reason there already to refuse it.
func reasons(project string, changes []control.Change) (map[string]string, error) {
	root, err := os.OpenRoot(project)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	handed, err := guard.NewHanded()
	if err != nil {
		return nil, err
	}
	waiting := map[string]bool{}
	for _, c := range changes {
		waiting[c.Path] = c.Guest.Kind != ""
	}
	stands := func(path string) bool {
		_, err := root.Lstat(path)
		return waiting[path] || err == nil
	}
	runs := map[string]string{}
	for _, c := range changes {
		if c.Guest.Kind == "file" || c.Guest.Kind == "link" {
			runs[c.ID] = handed.Why(guard.Changed{Path: c.Path, Link: c.Guest.Kind == "link"}, stands)
		}
	}
	return runs, nil
}

// reportHanded says on stderr which files that the user's tools run the guest changed since a checkpoint: what `sbx diff`
// marks.
func (a *app) reportHanded(ctx context.Context, box *sandbox, since int) {
	a.flush(context.WithoutCancel(ctx), box.client) // the user may have ended the program
	changes, err := handedSince(box, since)
	switch {
	case err != nil:
		fmt.Fprintln(a.Err, printable(fmt.Sprintf("sbx: which of the changed files your tools run is not known: %v", err)))
	case len(changes) > 0:
		fmt.Fprintln(a.Err, handedText(changes, since))
	}
}

func handedSince(box *sandbox, since int) ([]journal.Change, error) {
	history, root, err := (&kept{box: box, dir: box.files.JournalDir()}).open(since)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	handed, err := guard.NewHanded()
	if err != nil {
		return nil, err
	}
	return history.ChangesHanded(root, handed)
}

func handedText(changes []journal.Change, since int) string {
	var shown []string
	for _, c := range changes[:min(len(changes), maxRefusals)] {
		shown = append(shown, printable(c.Path))
	}
	text := "sbx: the guest changed files that your tools run: " + strings.Join(shown, ", ")
	if more := len(changes) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + fmt.Sprintf(" (sbx diff %d)", since)
}

// latest is the checkpoint that `sbx diff` shows what happened since, 0 without a journal.
func latest(box *sandbox) int {
	if box.spec.Workspace.Server == machine.ServerVirtiofsd {
		return 0
	}
	k, err := keptOf(box)
	if err != nil {
		return 0
	}
	id, err := k.since(0)
	if err != nil {
		return 0
	}
	return id
}
