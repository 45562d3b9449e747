package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
)

// settleLimit is how long a command waits for both copies of the workspace to be in step.
const settleLimit = 30 * time.Second

func newSync(a *app) *cobra.Command {
	return group("sync", "Keep the guest's copy of the workspace in step", "  sbx sync flush\n  sbx sync flush --confirm\n  sbx sync reset",
		newSyncFlush(a), newSyncReset(a))
}

func newSyncFlush(a *app) *cobra.Command {
	var name string
	var confirm bool
	cmd := &cobra.Command{
		Use: "flush", Short: "Wait until both copies are the same",
		Long: "Looks at all of the folder and of the guest's copy, copies what differs and returns when both are the same.\n" +
			"Where much was deleted at once, nothing is done before you agree to it with --confirm. For the modes sync\n" +
			"and review; in review, what the guest changed waits for: sbx apply.",
		Example: "  sbx sync flush\n  sbx sync flush --confirm",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			do := control.MirrorFlush
			if confirm {
				do = control.MirrorConfirm
			}
			return a.askMirror(ctx, name, do)
		}),
	}
	cmd.Flags().BoolVar(&confirm, "confirm", false, "agree to the deletions that it asked about")
	nameFlag(cmd, &name)
	return cmd
}

func newSyncReset(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "reset", Short: "Begin anew: deletes nothing, copies what one side lacks",
		Long: "Forgets what both copies last agreed on. What is on one side only is copied to the other, nothing is\n" +
			"deleted, and of a file that differs both versions are kept, the guest's beside yours.",
		Example: "  sbx sync reset",
		Args:    maxArgs(0, "no arguments"),
		RunE:    interruptible(func(ctx context.Context, _ []string) error { return a.askMirror(ctx, name, control.MirrorReset) }),
	}
	nameFlag(cmd, &name)
	return cmd
}

func (a *app) askMirror(ctx context.Context, name, do string) error {
	box, err := a.running(ctx, name)
	if err != nil {
		return err
	}
	defer box.close()
	m, err := box.client.Mirror(ctx, do)
	if err != nil {
		return hintf(err, "see: sbx status")
	}
	return printFields(a.Out, mirrorFields(box.spec.Workspace.Mode, &m))
}

// mirrored tells whether the guest has a copy of the workspace.
func mirrored(spec machine.Spec) bool {
	return spec.Workspace.Mode == machine.ModeSync || spec.Workspace.Mode == machine.ModeReview
}

// settle brings the copies in step around a command of the guest: it must see what was written before it, and
// who waits for it what it wrote. That this fails is said, and is not the command's fault.
func (a *app) settle(ctx context.Context, box *sandbox) (m machine.Mirror, ok bool) {
	if !mirrored(box.spec) {
		return m, false
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	m, err := box.client.Mirror(ctx, control.MirrorFlush)
	if err != nil {
		fmt.Fprintln(a.Err, printable(fmt.Sprintf("sbx: the copies of the workspace are not in step: %v (sbx status)", err)))
		return m, false
	}
	return m, true
}

// reportMirror says on stderr what of a command's work did not reach the folder on the host, if that is not
// what it was before the command.
func (a *app) reportMirror(ctx context.Context, box *sandbox, before machine.Mirror) {
	m, ok := a.settle(ctx, box)
	if !ok {
		return
	}
	var text string
	switch {
	case m.Waiting > 0 && m.Waiting != before.Waiting:
		text = fmt.Sprintf("sbx: waiting for you: %s of the guest (sbx diff, then sbx apply)", count(m.Waiting, "change"))
	case m.HeldCount > 0 && m.Waiting == 0 && !slices.Equal(m.Held, before.Held):
		text = fmt.Sprintf("sbx: staying in the guest: %s: %s (sbx status)", count(m.HeldCount, "change"), heldText(m.Held))
	case len(m.Conflicts) > 0 && !slices.Equal(m.Conflicts, before.Conflicts):
		text = fmt.Sprintf("sbx: changed on both sides: the guest's version is %q (sbx status)", m.Conflicts[0])
	default:
		return
	}
	fmt.Fprintln(a.Err, printable(text))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func heldText(held []machine.Held) string {
	var parts []string
	for _, h := range held[:min(len(held), maxRefusals)] {
		parts = append(parts, fmt.Sprintf("%s (%s)", h.Path, h.Reason))
	}
	return strings.Join(parts, ", ")
}

// mirrorFields are the lines of `sbx status` about the guest's copy.
func mirrorFields(mode string, m *machine.Mirror) [][2]string {
	if m == nil {
		return nil
	}
	fields := [][2]string{{"workspace", mirrorText(mode, m)}}
	add := func(name string, lines []string, all int) {
		for _, line := range lines {
			fields = append(fields, [2]string{name, line})
		}
		if more := all - len(lines); more > 0 {
			fields = append(fields, [2]string{name, fmt.Sprintf("and %d more", more)})
		}
	}
	add("halted", m.Halts, 0)
	if len(m.Halts) > 0 {
		add("halted", []string{"agree with: sbx sync flush --confirm; take it back with: sbx sync reset"}, 0)
	}
	var held []string
	for _, h := range m.Held {
		held = append(held, h.Path+": "+h.Reason)
	}
	add("held", held, m.HeldCount)
	add("conflict", m.Conflicts, 0)
	add("failed", m.Failed, 0)
	add("note", m.Notes, 0)
	return fields
}

func mirrorText(mode string, m *machine.Mirror) string {
	text := mode + ", " + m.State
	if m.State == "watching" {
		text = fmt.Sprintf("%s, in step, %d entries, %s copied", mode, m.Files, bytesText(m.Copied))
	}
	if m.Waiting > 0 {
		text += fmt.Sprintf(", %s waiting for you (sbx diff)", count(m.Waiting, "change"))
	}
	if m.Problem != "" {
		text += ": " + m.Problem
	}
	return text
}
