package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/machine/supervisor"
)

type upOptions struct {
	app     *app
	name    string
	flags   map[string]string
	restart bool // end one that runs first
}

func newUp(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "up [NAME]", Short: "Start the sandbox of this folder, making it if there is none",
		Long: "Starts a sandbox and returns when it takes commands. The first time it makes it: of the folder's\n" +
			"sbx.yaml, if there is one, and of an image, which is built once (some minutes). One that runs\n" +
			"already is left alone.",
		Example: "  sbx up\n  sbx up --cpus 2 --memory 2GiB",
		Args:    nameArg,
	}
	settingFlags(cmd.Flags())
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		return upOptions{app: a, name: firstOf(args), flags: givenSettings(cmd.Flags())}.run(ctx)
	})
	return cmd
}

// plan is what up is about: the sandbox as asked for and as it is on disk.
type plan struct {
	store  *store.Store
	files  *store.Sandbox
	config *configs.Config
	wanted machine.Spec
	stored *machine.Spec // nil if the sandbox is new
}

func (o upOptions) run(ctx context.Context) error {
	o.app.warnRoot()
	p, err := o.plan()
	if err != nil {
		return err
	}
	o.app.warnAll(p.config.Warnings)
	// Without the lock: up again must be quick and ask nothing.
	if o.alreadyUp(ctx, p) {
		return nil
	}
	if err := o.app.consent(ctx, p.config); err != nil {
		return err
	}
	unlock, err := o.app.work(ctx, p.files)
	if err != nil {
		return err
	}
	defer unlock()
	// Who had the lock before may have made it, or started it.
	if err := errors.Join(p.readStored(), p.foreign()); err != nil {
		return err
	}
	if err := o.settle(ctx, p); err != nil {
		return err
	}
	if o.alreadyUp(ctx, p) {
		return nil
	}
	return o.start(ctx, p)
}

// plan reads what is asked for and what is there.
func (o upOptions) plan() (*plan, error) {
	st, err := o.app.openStore()
	if err != nil {
		return nil, err
	}
	dir := o.app.Dir
	if o.name != "" {
		// By name, it is the sandbox's own project that counts, wherever this is typed.
		if spec, err := st.Sandbox(o.name).ReadSpec(); err == nil {
			dir = spec.Project
		}
	}
	config, err := o.app.loadConfigOf(dir, o.flags)
	if err != nil {
		return nil, err
	}
	p := &plan{store: st, config: config, wanted: config.Spec()}
	if o.name != "" {
		p.wanted.Name = o.name
	}
	p.files = st.Sandbox(p.wanted.Name)
	// One that cannot be read may be just being made: read again under the lock.
	if err := p.readStored(); err != nil {
		p.stored = nil
	}
	return p, p.foreign()
}

// readStored reads the sandbox that is there, if there is one.
func (p *plan) readStored() error {
	spec, err := p.files.ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		p.stored = &spec
	}
	return err
}

// foreign is an error if the name is taken by another folder's sandbox.
func (p *plan) foreign() error {
	if p.stored == nil || p.stored.Project == p.wanted.Project {
		return nil
	}
	return hintf(fmt.Errorf("sandbox %q belongs to the folder %q", p.stored.Name, p.stored.Project),
		"give this folder's another name: sbx up NAME, or name: in %s", configs.FileName)
}

// alreadyUp says whether there is nothing to start, and what of the configuration
// that means for.
func (o upOptions) alreadyUp(ctx context.Context, p *plan) bool {
	if p.stored == nil || o.restart {
		return false
	}
	status := p.store.Status(ctx, p.wanted.Name)
	if status.State != machine.Running && status.State != machine.Paused {
		return false
	}
	for _, notice := range o.app.changesOf(p).notices(true) {
		o.app.warn(notice)
	}
	o.app.say("sandbox %s is %s", p.wanted.Name, stateText(status))
	return true
}

// settle waits for a start or a stop whose command went away, and ends what runs if
// that is asked for.
func (o upOptions) settle(ctx context.Context, p *plan) error {
	if p.stored == nil {
		return nil
	}
	if o.restart {
		return o.app.end(ctx, p.store, p.wanted.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for {
		state := p.store.Status(ctx, p.wanted.Name).State
		if state != machine.Starting && state != machine.Stopping {
			return nil
		}
		select {
		case <-ctx.Done():
			return hintf(fmt.Errorf("sandbox %q is still %s", p.wanted.Name, state), "end it with: sbx stop %s", p.wanted.Name)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// start makes what is missing and launches the supervisor. The caller holds the
// sandbox's work lock, and it is down.
func (o upOptions) start(ctx context.Context, p *plan) error {
	progress := o.app.newProgress()
	defer progress.Close()
	spec, err := o.app.prepare(ctx, p, progress)
	if err != nil {
		return err
	}
	o.app.warnSecrets(ctx, spec)
	progress.Phase("starting "+spec.Name, 0)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	err = supervisor.Launch(ctx, p.files, self, func(phase supervisor.Phase) {
		progress.Phase(spec.Name+": "+string(phase), 0)
	})
	if err != nil {
		return hintf(fmt.Errorf("sandbox %q did not start: %w", spec.Name, err), "see: sbx logs %s", spec.Name)
	}
	progress.Close()
	if p.store.Status(ctx, spec.Name).Accel == machine.TCG {
		o.app.once(p.store, "tcg", "this machine offers no usable hardware virtualization: the guest runs under TCG, QEMU's emulator. "+
			"It is several times slower, and not a security boundary (`sbx doctor` says why)")
	}
	o.app.say("sandbox %s is up; try: sbx shell", spec.Name)
	return nil
}
