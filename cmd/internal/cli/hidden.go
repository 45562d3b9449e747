package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/machine/supervisor"
	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// newSupervise is the supervisor's process: what `sbx up` starts detached. SIGTERM
// ends the sandbox in order.
func newSupervise(a *app) *cobra.Command {
	return &cobra.Command{
		Use: supervisor.Command + " NAME", Short: "Run a sandbox's supervisor (sbx up does it)", Hidden: true,
		Args: exactlyOne("a NAME"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			st, err := a.openStore()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			// It has the values of secrets in its memory, and no file may.
			if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
				return fmt.Errorf("turn core dumps off: %w", err)
			}
			tell := supervisor.Teller(supervisor.ReadyFD)
			err = supervisor.Run(ctx, supervisor.Options{
				Store: st, Name: args[0], Self: self, Getenv: a.getenv, Log: a.logger(), Tell: tell,
			})
			if err != nil {
				tell(supervisor.Message{Error: err.Error()})
			}
			return err
		}),
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

// newFileServer is the file server's process, confined to the folders it serves.
func newFileServer(a *app) *cobra.Command {
	return &cobra.Command{
		Use: supervisor.FileServerCommand, Short: "Serve a sandbox's folders (sbx does it)", Hidden: true,
		Args: maxArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := confine.Seal(); err != nil {
				return fmt.Errorf("file server: %w", err)
			}
			if err := virtiofs.Main(cmd.Context(), a.In, a.Out, supervisor.FileServerFD, a.logger()); err != nil {
				return fmt.Errorf("file server: %w", err)
			}
			return nil
		},
	}
}
