package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine/control"
)

type topOptions struct {
	app          *app
	once, asJSON bool
	every        time.Duration
}

func newTop(a *app) *cobra.Command {
	o := topOptions{app: a}
	cmd := &cobra.Command{
		Use: "top [NAME]", Short: "Show the connections that are open now",
		Long:    "Shows the sandbox's open connections and what went over them, again and again until you interrupt it.",
		Example: "  sbx top\n  sbx top --once --json",
		Args:    nameArg,
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.run(ctx, firstOf(args)) }),
	}
	cmd.Flags().BoolVar(&o.once, "once", false, "show them once")
	cmd.Flags().DurationVar(&o.every, "every", time.Second, "how often")
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

func (o topOptions) run(ctx context.Context, name string) error {
	if o.every < 100*time.Millisecond {
		return usagef("--every %s: must be at least 100ms", o.every)
	}
	box, err := o.app.running(ctx, name)
	if err != nil {
		return err
	}
	defer box.close()
	_, interactive := terminal(o.app.Out)
	var before map[uint64]control.Connection
	for {
		list, err := box.client.Live(ctx)
		if err != nil {
			return err
		}
		if err := o.show(list, before, interactive && !o.once && !o.asJSON); err != nil || o.once {
			return err
		}
		before = map[uint64]control.Connection{}
		for _, c := range list {
			before[c.ID] = c
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.every):
		}
	}
}

// show prints the busiest connections first.
func (o topOptions) show(list []control.Connection, before map[uint64]control.Connection, clear bool) error {
	moved := func(c control.Connection) int64 {
		return c.BytesUp + c.BytesDown - before[c.ID].BytesUp - before[c.ID].BytesDown
	}
	slices.SortStableFunc(list, func(x, y control.Connection) int { return -cmp.Compare(moved(x), moved(y)) })
	if o.asJSON {
		return printJSONLine(o.app.Out, list)
	}
	if clear {
		fmt.Fprint(o.app.Out, "\x1b[H\x1b[2J")
	}
	var rows [][]string
	for _, c := range list {
		to := c.Addr
		if c.Name != "" {
			to = c.Name
		}
		rows = append(rows, []string{
			printable(hostPort(to, c.Port)), c.Addr, c.Proto, bytesText(c.BytesUp), bytesText(c.BytesDown),
			time.Since(c.Started).Round(time.Second).String(), c.Rule,
		})
	}
	return printTable(o.app.Out, []string{"NAME", "ADDRESS", "PROTO", "UP", "DOWN", "SINCE", "RULE"}, rows)
}

// bytesText is a size as a person reads it.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
