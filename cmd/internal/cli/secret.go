package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/secret"
	"github.com/sbx-vm/sbx/netfilter"
)

func newSecret(a *app) *cobra.Command {
	return group("secret", "Keep values that never enter a guest", "  sbx secret set ANTHROPIC_API_KEY\n  sbx secret ls",
		newSecretSet(a), newSecretLs(a), newSecretRm(a))
}

// secrets is the user's store. A world of its own has no part in the keyring.
func (a *app) secrets() (*secret.Store, error) {
	st, err := a.openStore()
	if err != nil {
		return nil, err
	}
	return secret.Open(st.DataDir(), a.getenv("SBX_HOME") == ""), nil
}

type secretSetOptions struct {
	app       *app
	hosts     []string
	fromEnv   string
	fromStdin bool
}

func newSecretSet(a *app) *cobra.Command {
	o := secretSetOptions{app: a}
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Keep a value, asked for without showing it",
		Long: "Keeps a value in the system's keyring, or in a file that is yours alone where there is none. A sandbox\n" +
			"whose configuration names the secret has a placeholder in its place; the gateway puts the value into\n" +
			"requests to the hosts that the configuration binds it to, and nowhere else. Running sandboxes use it at once.",
		Example: "  sbx secret set ANTHROPIC_API_KEY\n  pass show anthropic | sbx secret set ANTHROPIC_API_KEY --stdin",
		Args:    secretName,
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	cmd.Flags().StringArrayVar(&o.hosts, "host", nil, "the only host that it may go to, whatever a project asks for (may be repeated)")
	cmd.Flags().StringVar(&o.fromEnv, "from-env", "", "take the value from this variable of the environment")
	cmd.Flags().BoolVar(&o.fromStdin, "stdin", false, "read the value from standard input")
	return cmd
}

// secretName refuses a value on the command line, where other users and the shell's history see it.
func secretName(cmd *cobra.Command, args []string) error {
	if len(args) == 2 || len(args) == 1 && strings.Contains(args[0], "=") {
		return usagef("a value on the command line can be read by others: give the name alone, and the value when asked, by --stdin or --from-env")
	}
	return exactlyOne("a NAME")(cmd, args)
}

func (o secretSetOptions) run(ctx context.Context, name string) error {
	if err := secret.Check(name, "-"); err != nil {
		return usagef("%w", err)
	}
	for i, host := range o.hosts {
		place := netfilter.Secret{Name: name, Hosts: []string{host}}
		if _, _, err := netfilter.Compile(netfilter.Spec{Secrets: []netfilter.Secret{place}}); err != nil {
			return usagef("--host: %w", err)
		}
		o.hosts[i] = netfilter.CanonicalPattern(host)
	}
	value, err := o.value(ctx, name)
	if err != nil {
		return err
	}
	return o.app.keepSecret(ctx, name, value, o.hosts)
}

// keepSecret stores a value and lets running sandboxes have it.
func (a *app) keepSecret(ctx context.Context, name, value string, hosts []string) error {
	store, err := a.secrets()
	if err != nil {
		return err
	}
	info, err := store.Set(ctx, name, value, hosts)
	if err != nil {
		return err
	}
	if info.Where == secret.InFile && a.getenv("SBX_HOME") == "" {
		a.warn("no keyring answers: the secret is in a file that is readable by you alone")
	}
	if info.Stale {
		a.warn(fmt.Sprintf("the keyring, which does not answer, may still have an older value, which is not used; when it answers: sbx secret set %s", name))
	}
	return a.reloadSecrets(ctx)
}

func (o secretSetOptions) value(ctx context.Context, name string) (string, error) {
	switch fd, interactive := terminal(o.app.In); {
	case o.fromEnv != "" && o.fromStdin:
		return "", usagef("--from-env and --stdin exclude each other")
	case o.fromEnv != "":
		value := o.app.getenv(o.fromEnv)
		if value == "" {
			return "", fmt.Errorf("the variable %s is not set", o.fromEnv)
		}
		return value, nil
	case !interactive || o.fromStdin:
		return readValue(o.app.In)
	default:
		return o.app.askHidden(ctx, fd, fmt.Sprintf("Value of %s: ", name))
	}
}

// readValue reads one line from a pipe.
func readValue(r io.Reader) (string, error) {
	const most = 1 << 20 // the store says what is too long
	data, err := io.ReadAll(io.LimitReader(r, most))
	if err != nil {
		return "", fmt.Errorf("read the value: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// askHidden asks on a terminal without showing what is typed. When ctx ends, by Ctrl-C, the terminal shows
// again what is typed, and nobody waits for the line that is still to come.
func (a *app) askHidden(ctx context.Context, fd int, prompt string) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read the value: %w", err)
	}
	type line struct {
		value []byte
		err   error
	}
	read := make(chan line, 1)
	fmt.Fprint(a.Err, prompt)
	go func() {
		value, err := term.ReadPassword(fd)
		read <- line{value, err}
	}()
	select {
	case got := <-read:
		fmt.Fprintln(a.Err)
		if got.err != nil && !errors.Is(got.err, io.EOF) {
			return "", fmt.Errorf("read the value: %w", got.err)
		}
		return strings.TrimSpace(string(got.value)), nil
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return "", errors.Join(exitError{statusAsked, errInterrupted}, term.Restore(fd, before))
	}
}

// warnSecrets says which secrets of a sandbox that is being started have no value, and why. Those of agents are left
// out, which start without; those that a command of the user's gives as well, so that it runs once.
func (a *app) warnSecrets(ctx context.Context, spec machine.Spec) {
	store, err := a.secrets()
	if err != nil {
		return // the supervisor says it
	}
	for _, s := range spec.Network.Secrets {
		byCommand := slices.ContainsFunc(spec.Secrets, func(o machine.SecretSource) bool { return o.Name == s.Name && len(o.Command) > 0 })
		if byCommand || strings.HasPrefix(s.Origin.Source, "agent:") {
			continue
		}
		switch values, err := secret.Resolve(ctx, store, []secret.Wanted{{Name: s.Name, Hosts: s.Hosts}}, spec.Secrets, a.getenv); {
		case err != nil:
			a.warn(err.Error())
		case len(values) == 0:
			a.warn(fmt.Sprintf("secret %s has no value, and the guest does without it: sbx secret set %s", s.Name, s.Name))
		}
	}
}

// reloadSecrets lets every running sandbox read its secrets again.
func (a *app) reloadSecrets(ctx context.Context) error {
	st, err := a.openStore()
	if err != nil {
		return err
	}
	entries, err := st.List()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		client, err := control.Dial(ctx, st.Sandbox(entry.Name).ControlSocket())
		if err != nil {
			continue // it does not run
		}
		if _, err := client.ReloadSecrets(ctx); err != nil {
			a.warn(fmt.Sprintf("sandbox %s: %v", entry.Name, err))
		}
		client.Close() //nolint:errcheck // only idle connections are left
	}
	return nil
}

func newSecretLs(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the secrets, without their values",
		Example: "  sbx secret ls --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(context.Context, []string) error {
			store, err := a.secrets()
			if err != nil {
				return err
			}
			list, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, append([]secret.Info{}, list...))
			}
			var rows [][]string
			for _, s := range list {
				hosts := strings.Join(s.Hosts, ",")
				if hosts == "" {
					hosts = "as configured"
				}
				rows = append(rows, []string{s.Name, hosts, s.Where, s.Set.Local().Format(time.DateTime)})
			}
			return printTable(a.Out, []string{"NAME", "HOSTS", "IN", "SET"}, rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSecretRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME…", Short: "Forget secrets",
		Long:    "Forgets values. Running sandboxes lose them at once; what they sent is sent.",
		Example: "  sbx secret rm ANTHROPIC_API_KEY",
		Args:    atLeastOne("a NAME"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			store, err := a.secrets()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				// Also after an error: the value may be gone from one place.
				err := store.Remove(ctx, name)
				if !errors.Is(err, secret.ErrNone) {
					err = errors.Join(err, a.reloadSecrets(ctx))
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}),
	}
}
