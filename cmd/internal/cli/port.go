package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
)

func newPort(a *app) *cobra.Command {
	return group("port", "Show the sandbox's published ports", "  sbx port ls", newPortLs(a))
}

func newPortLs(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls [NAME]", Short: "List the published ports of a running sandbox",
		Long: "Lists where the guest's ports can be reached on this machine. They are asked for in sbx.yaml\n" +
			"(ports:) and listen on 127.0.0.1 unless it says otherwise.",
		Example: "  sbx port ls\n  sbx port ls shop --json",
		Args:    nameArg,
		RunE: interruptible(func(ctx context.Context, args []string) error {
			box, err := a.running(ctx, firstOf(args))
			if err != nil {
				return err
			}
			defer box.close()
			status, err := box.client.Status(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, append([]machine.Port{}, status.Ports...))
			}
			var rows [][]string
			for _, port := range status.Ports {
				rows = append(rows, []string{hostPort(port.Host, port.Port), strconv.Itoa(int(port.Guest))})
			}
			return printTable(a.Out, []string{"HOST", "GUEST PORT"}, rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
