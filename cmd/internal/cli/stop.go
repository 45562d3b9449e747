package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/store"
)

func newStop(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stop [NAME]", Short: "Stop a sandbox",
		Long:    "Ends the guest in order and all processes of the sandbox. Its disk stays. One that is down already\nis no error.",
		Example: "  sbx stop\n  sbx stop shop",
		Args:    nameArg,
		RunE: interruptible(func(ctx context.Context, args []string) error {
			box, err := a.own(firstOf(args))
			if err != nil {
				return err
			}
			unlock, err := a.work(ctx, box.files)
			if err != nil {
				return err
			}
			defer unlock()
			return a.end(ctx, box.store, box.name)
		}),
	}
}

func newRestart(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "restart [NAME]", Short: "Stop a sandbox and start it with the configuration as it is now",
		Long: "Stops the sandbox and starts it again. What changed in sbx.yaml takes effect, but what stands on the\n" +
			"disk (its size, the image): that takes `sbx reset`.",
		Example: "  sbx restart\n  sbx restart shop --memory 2GiB",
		Args:    nameArg,
	}
	settingFlags(cmd.Flags())
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		return upOptions{app: a, name: firstOf(args), flags: givenSettings(cmd.Flags()), restart: true}.run(ctx)
	})
	return cmd
}

func newReset(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "reset [NAME]", Short: "Throw the guest's disk away; the next start has a new one",
		Long: "Stops the sandbox and deletes its disk. The next `sbx up` makes a new one of the image that the\n" +
			"configuration asks for then. The project's folder, rules and logs stay.",
		Example: "  sbx reset && sbx up",
		Args:    nameArg,
		RunE: interruptible(func(ctx context.Context, args []string) error {
			box, err := a.own(firstOf(args))
			if err != nil {
				return err
			}
			if !force && a.canAsk() {
				if err := a.confirm(ctx, "throw the disk of "+box.name+" away?", "nothing was reset"); err != nil {
					return err
				}
			}
			return a.reset(ctx, box)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "without a question")
	return cmd
}

// reset leaves a sandbox without a disk and without an image: up chooses both anew.
func (a *app) reset(ctx context.Context, box *sandbox) error {
	unlock, err := a.work(ctx, box.files)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.end(ctx, box.store, box.name); err != nil {
		return err
	}
	box.spec.Image = ""
	return errors.Join(box.files.RemoveDisk(), box.files.WriteSpec(box.spec))
}

// workLimit is how long a command waits for another that makes, starts or deletes
// the same sandbox: longer than building an image takes without hardware
// virtualization.
const workLimit = 20 * time.Minute

// work waits for the lock of who makes, starts or deletes.
func (a *app) work(ctx context.Context, files *store.Sandbox) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	unlock, err = files.Work(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for another command on sandbox %q: %w", files.Name(), err)
	}
	return unlock, nil
}

// stopLimit is how long a supervisor has to end the guest in order and itself. It
// kills what does not end long before.
const stopLimit = 90 * time.Second

// end brings a sandbox down, in order if its supervisor answers. It returns when no
// process of it is left.
func (a *app) end(ctx context.Context, st *store.Store, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	files := st.Sandbox(name)
	var asked error
	for {
		state := st.Status(ctx, name).State
		// One whose files are broken may run all the same.
		client, err := control.Dial(ctx, files.ControlSocket())
		if err == nil {
			asked = client.Stop(ctx)
			client.Close() //nolint:errcheck // only idle connections are left
		} else if isDown(state) {
			return nil
		}
		select {
		case <-ctx.Done():
			return hintf(errors.Join(fmt.Errorf("sandbox %q did not stop", name), asked), "see: sbx logs %s --kind supervisor", name)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// isDown says that no supervisor lives and none comes up.
func isDown(state machine.State) bool {
	switch state {
	case machine.Stopped, machine.Crashed, machine.Broken:
		return true
	default:
		return false
	}
}
