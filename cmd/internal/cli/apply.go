package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/sync/journal"
)

type applyOptions struct {
	app                        *app
	name                       string
	interactive, force, asJSON bool
	runs                       map[string]string // why a tool of the user's runs a change, by its ID
}

func newApply(a *app) *cobra.Command {
	o := applyOptions{app: a}
	cmd := &cobra.Command{
		Use: "apply [PATH…]", Short: "Take the guest's changes over (mode review)",
		Long: "Brings what the guest changed in its copy to your folder: all of it, or what is at and below the paths. A file\n" +
			"that changed since on either side is not touched. What a tool on this machine would run or obey (protected\n" +
			"paths, executable files), and what you changed too, is taken only if you name it with --force or answer for\n" +
			"it with -i. `sbx undo` takes it back, but for what is protected.",
		Example: "  sbx apply\n  sbx apply src -i\n  sbx apply --force build.sh",
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.run(ctx, args) }),
	}
	cmd.Flags().BoolVarP(&o.interactive, "interactive", "i", false, "show each change and ask")
	cmd.Flags().BoolVar(&o.force, "force", false, "also what is refused otherwise, of the paths that are named")
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o applyOptions) run(ctx context.Context, args []string) error {
	if o.force && len(args) == 0 {
		return usageError{hintf(usagef("--force takes the paths that it is for"), "see them with: sbx diff")}
	}
	if o.interactive && !o.app.canAsk() {
		return usagef("-i asks on a terminal, and there is none")
	}
	box, err := o.app.reviewed(ctx, o.name)
	if err != nil {
		return err
	}
	defer box.close()
	changes, err := o.app.pickChanges(ctx, box, args)
	if err != nil {
		return err
	}
	if o.runs, err = reasons(box.spec.Project, changes); err != nil {
		return err
	}
	picks, err := o.choose(ctx, box, changes)
	if err != nil {
		return err
	}
	done, err := box.client.Apply(ctx, picks)
	if err != nil {
		return err
	}
	return o.print(changes, done)
}

// reviewed finds a running sandbox in mode review.
func (a *app) reviewed(ctx context.Context, name string) (*sandbox, error) {
	box, err := a.running(ctx, name)
	if err != nil {
		return nil, err
	}
	if box.spec.Workspace.Mode != machine.ModeReview {
		box.close()
		return nil, fmt.Errorf("the workspace's mode is %s: what the guest changes is in your folder already", box.spec.Workspace.Mode)
	}
	return box, nil
}

// pickChanges are the guest's changes at and below the paths, all without any.
func (a *app) pickChanges(ctx context.Context, box *sandbox, typed []string) ([]control.Change, error) {
	paths, err := a.inProject(box.spec.Project, typed)
	if err != nil {
		return nil, err
	}
	changes, err := box.client.Changes(ctx)
	if err != nil || len(paths) == 0 {
		return changes, err
	}
	for _, p := range paths {
		if !slices.ContainsFunc(changes, func(c control.Change) bool { return below(c.Path, p) }) {
			return nil, hintf(fmt.Errorf("%q: the guest changed nothing there", p), "see: sbx diff")
		}
	}
	return slices.DeleteFunc(changes, func(c control.Change) bool {
		return !slices.ContainsFunc(paths, func(p string) bool { return below(c.Path, p) })
	}), nil
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// choose says what to take: what is not refused, what is forced, or what the user answers.
func (o applyOptions) choose(ctx context.Context, box *sandbox, changes []control.Change) ([]control.Pick, error) {
	var picks []control.Pick
	all := false
	for _, c := range changes {
		switch {
		case c.Never:
			continue
		case !o.interactive:
			if c.Refused == "" || o.force {
				picks = append(picks, control.Pick{ID: c.ID, Force: o.force})
			}
			continue
		case all && c.Refused == "":
			picks = append(picks, control.Pick{ID: c.ID})
			continue
		}
		fmt.Fprintln(o.app.Out, printable(changeLine(c)+runsNote(o.runs[c.ID])))
		if err := o.app.patchOf(ctx, box, o.app.patchOut(), c); err != nil {
			return nil, err
		}
		question := "take it? [y]es, [N]o, [a]ll that is not refused, [q]uit"
		if c.Refused != "" {
			question = fmt.Sprintf("refused: %s. Take it nevertheless? [y]es, [N]o, [q]uit", c.Refused)
		}
		answer, err := o.app.askWord(ctx, question)
		if err != nil {
			return nil, err
		}
		switch answer {
		case "y", "yes":
			picks = append(picks, control.Pick{ID: c.ID, Force: c.Refused != ""})
		case "a", "all":
			if all = c.Refused == ""; all {
				picks = append(picks, control.Pick{ID: c.ID})
			}
		case "q", "quit":
			return picks, nil
		}
	}
	return picks, nil
}

// print says what was taken and what was not. What failed is an error; what is refused by default is none.
func (o applyOptions) print(changes []control.Change, done []control.Applied) error {
	failed := slices.DeleteFunc(slices.Clone(done), func(a control.Applied) bool { return a.Reason == "" })
	if o.asJSON {
		if err := printJSON(o.app.Out, append([]control.Applied{}, done...)); err != nil {
			return err
		}
	} else {
		o.printText(changes, done)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d changes were not taken", len(failed), len(done))
	}
	return nil
}

func (o applyOptions) printText(changes []control.Change, done []control.Applied) {
	byID := map[string]control.Change{}
	for _, c := range changes {
		byID[c.ID] = c
	}
	taken := map[string]bool{}
	for _, a := range done {
		taken[a.Change.ID] = true
		c := byID[a.Change.ID]
		if a.Reason == "" {
			fmt.Fprintf(o.app.Out, "applied     %s%s\n", printable(c.Path), runsNote(o.runs[c.ID]))
		} else {
			fmt.Fprintf(o.app.Out, "not taken   %s: %s\n", printable(c.Path), printable(a.Reason))
		}
	}
	refused := 0
	for _, c := range changes {
		if !taken[c.ID] && c.Refused != "" {
			refused++
			fmt.Fprintf(o.app.Out, "refused     %s: %s\n", printable(c.Path), printable(c.Refused))
		}
	}
	if refused > 0 {
		o.app.say("sbx: look at what is refused with: sbx diff --patch; take a path nevertheless with: sbx apply --force PATH\n")
	}
	if len(done)+refused == 0 {
		fmt.Fprintln(o.app.Out, "nothing to apply")
	}
}

// reviewDiff is `sbx diff` without a checkpoint in mode review: what waits in the guest.
func (o diffOptions) reviewDiff(ctx context.Context, box *sandbox) error {
	changes, err := box.client.Changes(ctx)
	if err != nil {
		return err
	}
	if o.patch && !o.asJSON {
		for _, c := range changes {
			if err := o.app.patchOf(ctx, box, o.app.patchOut(), c); err != nil {
				return err
			}
		}
		return nil
	}
	runs, err := reasons(box.spec.Project, changes)
	if err != nil {
		return err
	}
	return o.printWaiting(changes, runs)
}

func (o diffOptions) printWaiting(changes []control.Change, runs map[string]string) error {
	if o.asJSON {
		out := []markedWaiting{}
		for _, c := range changes {
			out = append(out, markedWaiting{c, runs[c.ID]})
		}
		return printJSON(o.app.Out, out)
	}
	for _, refused := range []bool{false, true} { // apart
		for _, c := range changes {
			if (c.Refused != "") == refused {
				fmt.Fprintln(o.app.Out, printable(changeLine(c)+runsNote(runs[c.ID])))
			}
		}
	}
	return nil
}

func changeLine(c control.Change) string {
	status := "M"
	switch {
	case c.Host.Kind == "":
		status = "A"
	case c.Guest.Kind == "":
		status = "D"
	case c.Host.Kind != c.Guest.Kind:
		status = "T"
	}
	line := status + " " + c.Path
	if c.Guest.Kind == "link" {
		line += " → " + c.Guest.Target
	}
	if c.Refused != "" {
		line += " (refused: " + c.Refused + ")"
	}
	return line
}

// patchOf writes one change as a unified diff; a large file is named alone.
func (a *app) patchOf(ctx context.Context, box *sandbox, w io.Writer, c control.Change) error {
	if c.Host.Kind != "file" && c.Guest.Kind != "file" {
		return nil
	}
	both, err := box.client.Content(ctx, c.Path)
	if err != nil {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		_, err = fmt.Fprintf(w, "%q: %s\n", c.Path, printable(err.Error()))
		return err
	}
	return journal.Unified(w, c.Path, both.Host, both.Guest)
}
