package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/learn"
)

// maxLearnt bounds the entries of the log that are looked at.
const maxLearnt = 200_000

type learnOptions struct {
	app           *app
	name          string
	write, asJSON bool
	since         time.Duration
}

func newPolicyLearn(a *app) *cobra.Command {
	o := learnOptions{app: a}
	cmd := &cobra.Command{
		Use: "learn", Short: "Propose rules for what was refused",
		Long: "Reads the sandbox's network log and prints the shortest sensible list of rules for what was refused (under\n" +
			"`network.default: allow`: for what was used), as a piece of sbx.yaml. Read it before you take it: the names\n" +
			"are what programs in the guest asked for. --write appends the rules to sbx.yaml and keeps what stands there.",
		Example: "  sbx policy learn\n  sbx policy learn --since 1h --write",
		Args:    maxArgs(0, "no arguments"),
		RunE:    interruptible(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	cmd.Flags().BoolVar(&o.write, "write", false, "append the rules to sbx.yaml")
	cmd.Flags().DurationVar(&o.since, "since", 0, "look at nothing older than this, such as 10m")
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o learnOptions) run(ctx context.Context) error {
	since, err := sinceTime(o.since)
	if err != nil {
		return err
	}
	box, err := o.app.existing(o.name)
	if err != nil {
		return err
	}
	policy, err := o.app.policy(ctx, o.name)
	if err != nil {
		return err
	}
	options := audit.ReadOptions{Since: since}
	var entries []audit.Entry
	err = audit.Read(ctx, box.files.NetLog(), options, func(e audit.Entry) error {
		if entries = append(entries, e); len(entries) > maxLearnt {
			entries = entries[len(entries)-maxLearnt/2:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	proposals := learn.Propose(entries, policy)
	if o.asJSON {
		err = printJSON(o.app.Out, append([]learn.Proposal{}, proposals...))
	} else {
		_, err = fmt.Fprint(o.app.Out, proposalsText(proposals))
	}
	if err != nil || !o.write || len(proposals) == 0 {
		return err
	}
	patterns := make([]string, len(proposals))
	for i, p := range proposals {
		patterns[i] = p.Pattern
	}
	if err := o.app.writeRules(ctx, box.spec.Project, patterns); err != nil {
		return err
	}
	fmt.Fprintln(o.app.Err, "sbx: written; it holds from the next start: sbx restart")
	return nil
}

// proposalsText is a piece of sbx.yaml. Patterns are canonical names, which need no more quoting than this.
func proposalsText(proposals []learn.Proposal) string {
	if len(proposals) == 0 {
		return "# nothing was refused that a rule could allow\n"
	}
	var b strings.Builder
	b.WriteString("network:\n  allow:\n")
	for _, p := range proposals {
		fmt.Fprintf(&b, "    - %q  # %s\n", p.Pattern, printable(p.Why))
	}
	return b.String()
}
