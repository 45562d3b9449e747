package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/store"
)

func newLs(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the sandboxes",
		Long:    "Lists all sandboxes of this user and how each stands. One whose files cannot be read is listed as\nbroken; the others are not touched by it.",
		Example: "  sbx ls\n  sbx ls --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			return a.ls(ctx, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) ls(ctx context.Context, asJSON bool) error {
	st, err := a.openStore()
	if err != nil {
		return err
	}
	statuses, err := allStatuses(ctx, st)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, statuses)
	}
	var rows [][]string
	for _, s := range statuses {
		rows = append(rows, []string{s.Name, stateText(s), uptime(s), s.Accel, size(s.Memory), s.Project})
	}
	return printTable(a.Out, []string{"NAME", "STATE", "UP", "ACCEL", "MEMORY", "PROJECT"}, rows)
}

// allStatuses asks all sandboxes at once: one whose supervisor does not answer
// costs its deadline, not everybody's. It never returns nil, for JSON's sake.
func allStatuses(ctx context.Context, st *store.Store) ([]machine.Status, error) {
	entries, err := st.List()
	if err != nil {
		return nil, err
	}
	statuses := make([]machine.Status, len(entries))
	var all sync.WaitGroup
	for i, entry := range entries {
		all.Go(func() { statuses[i] = st.Status(ctx, entry.Name) })
	}
	all.Wait()
	return statuses, nil
}

func stateText(s machine.Status) string {
	if s.Reason == "" {
		return string(s.State)
	}
	reason, _, _ := strings.Cut(s.Reason, "\n")
	return fmt.Sprintf("%s: %s", s.State, reason)
}

func uptime(s machine.Status) string {
	if s.Started.IsZero() || s.State != machine.Running && s.State != machine.Paused {
		return ""
	}
	return time.Since(s.Started).Round(time.Second).String()
}

func size(n machine.Bytes) string {
	if n <= 0 {
		return ""
	}
	return humanize.IBytes(uint64(n))
}
