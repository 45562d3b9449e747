// Command report reports the attack cases of a table, one line each: of the guest's network (egress) or of
// the shared folder (workspace).
//
// A table lists the cases: ID, name and, for what cannot be stopped, the sentence of docs/security.md that says
// so; or "SKIP" and why a case has no test. A test belongs to a case by its name: a test or
// subtest that begins with the ID and an underscore ("D4_NULL", "TestW22_Composed"), in whatever package. A
// case passes if it has tests and all of them pass. A case without a test
// is a failure, unless its sentence stands in docs/security.md.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

//go:embed *.tsv
var tables embed.FS // embedded

// packagesOf are those that hold the tests of a table.
func packagesOf(table string) []string {
	if table == "workspace" {
		return []string{"./sync/...", "./machine/...", "./netfilter/gateway", "./cmd/internal/cli"}
	}
	return []string{"./netfilter/...", "./configs", "./machine/qemu", "./machine/supervisor", "./sync/guard"}
}

// errFailed says that the report has a case that did not pass.
var errFailed = errors.New("not every case passed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	table := flags.String("table", "egress", "egress or workspace")
	docs := flags.String("docs", "docs/security.md", "where the sentences of residual cases stand")
	race := flags.Bool("race", false, "run the tests with the race detector")
	if err := flags.Parse(args); err != nil {
		return err
	}
	packages := flags.Args()
	if len(packages) == 0 {
		packages = packagesOf(*table)
	}
	rows, err := tables.ReadFile(*table + ".tsv")
	if err != nil {
		return fmt.Errorf("table %q: %w", *table, err)
	}
	cases, err := parseCases(rows)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(*docs)
	if err != nil {
		return err
	}
	results, testErr := runTests(ctx, packages, *race)
	verdicts := judge(cases, results, string(text))
	if err := report(out, verdicts); err != nil {
		return err
	}
	for _, v := range verdicts {
		if v.word == fail {
			return errors.Join(errFailed, testErr)
		}
	}
	return testErr // a fault outside the rows is one as well
}

// runTests gives the results of the rows' tests. An error says that a package failed, which
// may be by a test of no row, and names what did.
func runTests(ctx context.Context, packages []string, race bool) (results, error) {
	args := []string{"test", "-json", "-count=1"}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	got, others, readErr := read(out)
	if err := errors.Join(readErr, cmd.Wait()); err != nil {
		return got, fmt.Errorf("go test: %w; failed outside the rows: %q", err, others)
	}
	return got, nil
}
