package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type logsOptions struct {
	app    *app
	name   string
	follow bool
	kinds  []string
}

func newLogs(a *app) *cobra.Command {
	o := logsOptions{app: a}
	cmd := &cobra.Command{
		Use:   "logs [NAME] [-f] [--kind KIND,…]",
		Short: "Show what the sandbox wrote down",
		Long: "Shows the logs of a sandbox, running or not: boot (the guest's console), net (what the network\n" +
			"decided), docker, agent (what sbx's own agent in the guest said on that console), files (the file\n" +
			"server), supervisor. Control characters are escaped: the guest writes most of this.",
		Example: "  sbx logs --kind boot\n  sbx logs shop -f --kind net,docker",
		Args:    nameArg,
		RunE: interruptible(func(ctx context.Context, args []string) error {
			o.name = firstOf(args)
			return o.run(ctx)
		}),
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what is written later")
	cmd.Flags().StringSliceVar(&o.kinds, "kind", nil, "which logs: boot, net, docker, agent, files, supervisor (default: all)")
	return cmd
}

func (o logsOptions) run(ctx context.Context) error {
	box, err := o.app.existing(o.name)
	if err != nil {
		return err
	}
	tails, err := chooseLogs(box.logs(), o.kinds)
	if err != nil {
		return err
	}
	defer func() {
		for _, tail := range tails {
			tail.Close()
		}
	}()
	printer := logPrinter{w: o.app.Out, headers: len(tails) > 1}
	for {
		for _, tail := range tails {
			if err := tail.drain(printer.line); err != nil {
				return err
			}
			if !o.follow {
				if err := tail.flush(printer.line); err != nil {
					return err
				}
			}
		}
		if !o.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// chooseLogs picks the kinds. If none is named it is all but those that are a part of another.
func chooseLogs(all []*logTail, kinds []string) ([]*logTail, error) {
	if len(kinds) == 0 {
		return slices.DeleteFunc(all, func(t *logTail) bool { return t.prefix != "" }), nil
	}
	var chosen []*logTail
	for _, kind := range kinds {
		i := slices.IndexFunc(all, func(t *logTail) bool { return t.kind == kind })
		if i < 0 {
			var known []string
			for _, tail := range all {
				known = append(known, tail.kind)
			}
			return nil, usagef("no log %q: there are %s", kind, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// logPrinter writes lines escaped, with a header where the log changes.
type logPrinter struct {
	w       io.Writer
	headers bool
	last    string
}

func (p *logPrinter) line(kind, line string) error {
	if p.headers && kind != p.last {
		p.last = kind
		if _, err := fmt.Fprintf(p.w, "==> %s <==\n", kind); err != nil {
			return err
		}
	}
	_, err := io.WriteString(p.w, printableLine(line))
	return err
}
