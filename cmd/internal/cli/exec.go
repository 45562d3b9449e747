package cli

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
)

// execStatusHelp is the interface of exec's and shell's exit status.
const execStatusHelp = "Exit status: the command's own; 128+N if signal N ended it; 127 not found in the guest,\n" +
	"126 found and not executable; 125 if sbx itself failed; 2 wrong usage."

type execOptions struct {
	app         *app
	name        string
	argv        []string
	interactive bool
	tty         ttyMode
	env         []string
	dir, user   string
}

// ttyMode says whether the command gets a terminal of its own.
type ttyMode int

const (
	ttyAuto ttyMode = iota // when stdin and stdout are terminals
	ttyYes
	ttyNo
)

func newExec(a *app) *cobra.Command {
	o := execOptions{app: a}
	var tty bool
	cmd := &cobra.Command{
		Use:   "exec [NAME] [-it] [-e K=V] [-w DIR] [-u USER] -- CMD [ARG…]",
		Short: "Run a command in the sandbox",
		Long: "Runs CMD in the guest, in the workspace folder that matches the current one. Everything after --\n" +
			"is the command, as it stands: no shell reads it. stdin is passed on; the command gets a terminal\n" +
			"when stdin and stdout are one (-t and -t=false decide otherwise).\n\n" + execStatusHelp,
		Example: "  sbx exec -- make test\n  sbx exec shop -e CI=1 -w /tmp -- sh -c 'echo $CI > x'\n  sbx exec -u root -- id",
		Args: func(cmd *cobra.Command, args []string) error {
			return o.parse(args, cmd.ArgsLenAtDash())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.tty = ttyFlag(cmd.Flags().Changed("tty"), tty)
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.interactive, "interactive", "i", true, "pass stdin on to the command")
	flags.BoolVarP(&tty, "tty", "t", false, "give the command a terminal (default: when stdin and stdout are one)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "set K=V for the command; K alone takes the value from here")
	flags.StringVarP(&o.dir, "workdir", "w", "", "start in DIR of the guest; relative to the workspace")
	flags.StringVarP(&o.user, "user", "u", "", "run as USER of the guest")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{hintf(err, "everything after -- is the command: sbx exec -- CMD ARG…")}
	})
	return cmd
}

func ttyFlag(given, value bool) ttyMode {
	switch {
	case !given:
		return ttyAuto
	case value:
		return ttyYes
	default:
		return ttyNo
	}
}

// parse splits [NAME] -- CMD…; dash is the number of arguments before --, or -1.
func (o *execOptions) parse(args []string, dash int) error {
	switch {
	case dash < 0 && len(args) == 0:
		return usageError{hintf(usagef("exec: no command given"), "try: sbx exec -- uname -a")}
	case dash < 0:
		return usageError{hintf(usagef("exec: nothing was run: the command must stand after --"),
			"if %q is the command: sbx exec -- %s", args[0], strings.Join(args, " "))}
	case dash > 1:
		return usagef("exec takes one NAME before --, not %q", args[:dash])
	case dash == len(args):
		return usageError{hintf(usagef("exec: no command after --"), "try: sbx exec -- uname -a")}
	}
	o.name, o.argv = firstOf(args[:dash]), args[dash:]
	if o.name == "" {
		return nil
	}
	if err := validName(o.name); err != nil {
		return usageError{err}
	}
	return nil
}

func (o execOptions) run(ctx context.Context) error {
	env, err := o.environment()
	if err != nil {
		return err
	}
	box, err := o.app.running(ctx, o.name)
	if err != nil {
		return exitError{statusSbx, err}
	}
	defer box.close()
	if err := o.keepsSecrets(box.spec); err != nil {
		return err
	}
	request := control.ExecRequest{
		Argv: o.argv, Dir: o.workdir(box.spec), User: o.user, Env: env,
	}
	return o.app.attach(ctx, box, request, attachment{stdin: o.interactive, tty: o.tty})
}

// environment reads the -e flags.
func (o execOptions) environment() (map[string]string, error) {
	env := map[string]string{}
	for _, pair := range o.env {
		key, value, given := strings.Cut(pair, "=")
		if key == "" || strings.ContainsRune(pair, 0) {
			return nil, usagef("-e %q is not K=V", pair)
		}
		if !given {
			value = o.app.getenv(key)
		}
		env[key] = value
	}
	return env, nil
}

// keepsSecrets refuses to copy a secret's value out of this environment: the guest has a placeholder for it, and
// the gateway takes nothing else.
func (o execOptions) keepsSecrets(spec machine.Spec) error {
	for _, s := range spec.Network.Secrets {
		if slices.Contains(o.env, s.Name) {
			return usageError{hintf(fmt.Errorf("-e %s: is a secret of this sandbox, and its value does not enter the guest", s.Name),
				"leave it out: the guest has a placeholder in that variable")}
		}
	}
	return nil
}

// workdir is where the command starts: what -w says, else the guest's folder that
// shows the current one, else the workspace (empty: the guest decides).
func (o execOptions) workdir(spec machine.Spec) string {
	switch {
	case path.IsAbs(o.dir):
		return path.Clean(o.dir)
	case o.dir != "":
		return path.Join(spec.Workspace.Target, o.dir)
	}
	return guestDir(spec, o.app.Dir)
}

// guestDir returns where the host folder dir is in the guest, or the workspace.
func guestDir(spec machine.Spec, dir string) string {
	shared := append([]machine.Mount{{Source: spec.Project, Target: spec.Workspace.Target}}, spec.Workspace.Mounts...)
	for _, mount := range shared {
		rel, err := filepath.Rel(mount.Source, dir)
		if err == nil && filepath.IsLocal(rel) {
			return path.Join(mount.Target, filepath.ToSlash(rel))
		}
	}
	return spec.Workspace.Target
}
