// Package cli is the command line of sbx: it parses, asks the packages that
// know, and prints. One file per command holds its options, its constructor and
// its run function; cobra ends at the constructor.
//
// Rules that hold for all of them:
//
//   - Results go to stdout; progress and messages to stderr, progress only when
//     that is a terminal.
//   - An error is one line "sbx: …" that names the thing and the cause, and a line
//     below it with the next step where there is one (see [hinted]).
//   - Exit status 0 means done, 1 failed, 2 wrong usage. exec and shell pass the
//     guest command's own on, and 125 when sbx itself failed. Ctrl-C at a question
//     is 130. [exitStatus] is the one place that decides.
//   - Strings that a guest, a project file or the network could have chosen are
//     escaped before a terminal sees them, except in exec and shell, whose bytes
//     are the command's own.
//   - SIGINT and SIGTERM cancel the command's context; exec and shell forward them
//     to the guest's command instead.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses that sbx itself gives; they are an interface.
const (
	statusFailed = 1
	statusUsage  = 2
	statusAsked  = 130 // Ctrl-C at a question, as a shell says it
	statusSbx    = 125 // exec and shell: sbx failed, not the command
)

// Main runs the command line args (without the program's name) and returns the
// exit status. It does not end the process and installs signal handlers only
// while a command runs.
func Main(ctx context.Context, args []string, s Streams) int {
	// Folders are compared by their real names.
	if dir, err := filepath.EvalSymlinks(s.Dir); err == nil {
		s.Dir = dir
	}
	a := &app{Streams: s}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started {
		err = usageError{err}
	}
	printError(s.Err, err)
	return exitStatus(err)
}

// app is what every command gets: the process' streams and what was found out
// while parsing.
type app struct {
	Streams
	started bool // a command's own code was reached: errors before that are wrong usage
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "sbx",
		Short: "A computer of its own for your coding agent",
		Long: "sbx runs a coding agent, or any command, in a microVM: its own kernel, its own Docker,\n" +
			"your project's folder, and a network that reaches only what you allow.\n\n" +
			"NAME is optional everywhere: without it, the sandbox of the nearest sbx.yaml above the\n" +
			"current folder, else of the current folder.",
		Example:           "  sbx up\n  sbx exec -- uname -r\n  sbx shell\n  sbx rm -f",
		Version:           a.version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRun:  func(*cobra.Command, []string) { a.started = true },
		DisableAutoGenTag: true,
	}
	root.SetVersionTemplate("sbx {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(a.commands()...)
	root.InitDefaultCompletionCmd()
	documentStatus(root)
	return root
}

// documentStatus adds the usual exit statuses to the help of every command that
// does not say its own.
func documentStatus(cmd *cobra.Command) {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	if !strings.Contains(cmd.Long, "Exit status:") {
		cmd.Long = strings.TrimRight(cmd.Long, "\n") + "\n\nExit status: 0 done, 1 failed, 2 wrong usage."
	}
	for _, sub := range cmd.Commands() {
		documentStatus(sub)
	}
}

// group is a command that only holds others.
func group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

// interruptible makes a cobra run function of f: the first SIGINT or SIGTERM
// cancels f's context, a second one ends the process at once.
func interruptible(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		err := f(ctx, args)
		if ctx.Err() != nil && cmd.Context().Err() == nil && err != nil && !errors.Is(err, errInterrupted) {
			return errors.New("interrupted")
		}
		return err
	}
}

// maxArgs refuses more than n arguments. what names the arguments for the message.
func maxArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s takes %s, not %q", cmd.CommandPath(), what, args[n:])
		}
		return nil
	}
}

// firstOf returns args[0], or nothing.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// printError writes err as people read it, escaped: it may quote a guest's name.
func printError(w io.Writer, err error) {
	if err == nil {
		return
	}
	if exit := (exitError{}); errors.As(err, &exit) && exit.err == nil {
		return
	}
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, line := range lines {
		if i == 0 {
			line = "sbx: " + line
		}
		fmt.Fprintln(w, printableLine(line))
	}
	if hint := hintOf(err); hint != "" {
		fmt.Fprintln(w, "     "+printable(hint))
	}
}
