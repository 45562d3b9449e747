package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine/control"
)

func newShell(a *app) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "shell [NAME]",
		Short: "Open a login shell in the sandbox",
		Long: "Opens the login shell of the guest's user, in the workspace folder that matches the current one.\n\n" +
			execStatusHelp,
		Example: "  sbx shell\n  sbx shell shop -u root",
		Args:    nameArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.shell(cmd.Context(), firstOf(args), user)
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "the user of the guest")
	return cmd
}

func (a *app) shell(ctx context.Context, name, user string) error {
	box, err := a.running(ctx, name)
	if err != nil {
		return exitError{statusSbx, err}
	}
	defer box.close()
	request := control.ExecRequest{Dir: guestDir(box.spec, a.Dir), User: user}
	how := attachment{stdin: true}
	if id := latest(box); id != 0 {
		how.ended = func() { a.reportHanded(ctx, box, id) }
	}
	return a.attach(ctx, box, request, how)
}
