package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine/store"
)

type rmOptions struct {
	app        *app
	name       string
	force, all bool
}

func newRm(a *app) *cobra.Command {
	o := rmOptions{app: a}
	cmd := &cobra.Command{
		Use: "rm [NAME]", Short: "Delete a sandbox: its disk, logs and rules",
		Long: "Deletes all of a sandbox but the project's folder. One that runs is ended first, after a question\n" +
			"or with -f; with -f one that is not there is no error.",
		Example: "  sbx rm\n  sbx rm -f shop\n  sbx rm --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if o.all && len(args) > 0 {
				return usagef("rm: --all takes no NAME")
			}
			return nameArg(cmd, args)
		},
		RunE: interruptible(func(ctx context.Context, args []string) error {
			o.name = firstOf(args)
			return o.run(ctx)
		}),
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "end one that runs, without a question")
	cmd.Flags().BoolVar(&o.all, "all", false, "all sandboxes of this user")
	return cmd
}

func (o rmOptions) run(ctx context.Context) error {
	st, err := o.app.openStore()
	if err != nil {
		return err
	}
	names, err := o.names(st)
	if err != nil {
		return err
	}
	if err := o.mayEnd(ctx, st, names); err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		faults = append(faults, o.app.remove(ctx, st, name))
	}
	return errors.Join(faults...)
}

// names are the sandboxes to delete, broken ones too.
func (o rmOptions) names(st *store.Store) ([]string, error) {
	if o.all {
		entries, err := st.List()
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name)
		}
		return names, err
	}
	name, err := o.app.chooseName(st, o.name)
	if other := (foreign{}); o.force && errors.As(err, &other) {
		return nil, nil // this folder's is not there
	}
	if err != nil {
		return nil, err
	}
	if st.Exists(name) {
		return []string{name}, nil
	}
	if o.force {
		return nil, nil
	}
	return nil, o.app.none(st, name, o.name)
}

// mayEnd makes sure that the user means to end what runs.
func (o rmOptions) mayEnd(ctx context.Context, st *store.Store, names []string) error {
	if o.force {
		return nil
	}
	var up []string
	for _, name := range names {
		if !isDown(st.Status(ctx, name).State) {
			up = append(up, name)
		}
	}
	if len(up) == 0 {
		return nil
	}
	running := strings.Join(up, ", ")
	if !o.app.canAsk() {
		return hintf(fmt.Errorf("still running: %s", running), "end and delete with: sbx rm -f")
	}
	return o.app.confirm(ctx, "end and delete "+running+"?", "nothing was deleted")
}

// remove ends a sandbox and deletes it.
func (a *app) remove(ctx context.Context, st *store.Store, name string) error {
	files := st.Sandbox(name)
	unlock, err := a.work(ctx, files)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.end(ctx, st, name); err != nil {
		return err
	}
	if err := files.Remove(); err != nil {
		return fmt.Errorf("delete sandbox %q: %w", name, err)
	}
	return nil
}
