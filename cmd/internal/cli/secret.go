package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/secret"
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
	value, err := o.value(name)
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
	return a.reloadSecrets(ctx)
}

func (o secretSetOptions) value(name string) (string, error) {
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
		return o.app.askHidden(fd, fmt.Sprintf("Value of %s: ", name))
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

// askHidden asks on a terminal without showing what is typed.
func (a *app) askHidden(fd int, prompt string) (string, error) {
	fmt.Fprint(a.Err, prompt)
	value, err := term.ReadPassword(fd)
	fmt.Fprintln(a.Err)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the value: %w", err)
	}
	return strings.TrimSpace(string(value)), nil
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
				if err := store.Remove(ctx, name); err != nil {
					errs = append(errs, err)
					continue
				}
				errs = append(errs, a.reloadSecrets(ctx))
			}
			return errors.Join(errs...)
		}),
	}
}
