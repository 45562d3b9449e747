package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/machine/supervisor"
	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// newSupervise is the supervisor's process: what `sbx up` starts detached.
func newSupervise(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "supervise NAME", Short: "Run a sandbox's supervisor (sbx up does it)", Hidden: true,
		Args: exactly(1, "a NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := a.openStore()
			if err != nil {
				return err
			}
			return supervisor.Run(cmd.Context(), supervisor.Options{Store: st, Name: args[0], Accel: a.getenv("SBX_ACCEL")})
		},
	}
}

// newConfine takes the process' rights away and becomes another program.
func newConfine() *cobra.Command {
	return &cobra.Command{
		Use: confine.Subcommand, Short: "Confine this process and become another (sbx does it)", Hidden: true,
		// What stands here is another program's command line.
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return confine.Run(args) },
	}
}

// fileServerFD is where the supervisor hands the file server its connection to QEMU.
const fileServerFD = 3

// newFileServer is the file server's process, confined to the folders it serves.
func newFileServer(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "__fileserver", Short: "Serve a sandbox's folders (sbx does it)", Hidden: true,
		Args: maxArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := virtiofs.Main(cmd.Context(), a.In, fileServerFD, a.logger()); err != nil {
				return fmt.Errorf("file server: %w", err)
			}
			return nil
		},
	}
}
