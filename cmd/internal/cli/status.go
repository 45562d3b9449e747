package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
)

func newStatus(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show how a sandbox stands",
		Long: "Shows how a sandbox stands, by its lock and an answer of its supervisor, not by what a file says.\n\n" +
			"Exit status: 0 shown, 1 there is none or it cannot be read, 2 wrong usage.",
		Example: "  sbx status\n  sbx status shop --json",
		Args:    nameArg,
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.status(ctx, firstOf(args), asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) status(ctx context.Context, name string, asJSON bool) error {
	box, err := a.existing(name)
	if err != nil {
		return err
	}
	s := box.store.Status(ctx, box.name)
	if asJSON {
		return printJSON(a.Out, s)
	}
	return printFields(a.Out, statusFields(s))
}

func statusFields(s machine.Status) [][2]string {
	fields := [][2]string{
		{"name", s.Name},
		{"state", string(s.State)},
		{"reason", s.Reason},
		{"project", s.Project},
		{"up", uptime(s)},
		{"machine", machineText(s)},
		{"image", s.Image},
		{"processes", processText(s)},
	}
	for _, port := range s.Ports {
		fields = append(fields, [2]string{"port", portText(port)})
	}
	return append(fields, mirrorFields(s.Mode, s.Mirror)...)
}

func machineText(s machine.Status) string {
	if s.CPUs == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, %d CPUs, %s memory, %s disk", s.Arch, s.CPUs, size(s.Memory), size(s.Disk))
	if s.Accel == machine.TCG {
		return text + ", tcg (emulated: slow, and not a security boundary)"
	}
	if s.Accel != "" {
		text += ", " + s.Accel
	}
	return text
}

func processText(s machine.Status) string {
	text := ""
	for _, process := range []struct {
		name string
		pid  int
	}{{"supervisor", s.Supervisor}, {"qemu", s.QEMU}, {"file server", s.FileServer}} {
		if process.pid == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += process.name + " " + strconv.Itoa(process.pid)
	}
	return text
}

func portText(p machine.Port) string {
	return hostPort(p.Host, p.Port) + " → guest " + strconv.Itoa(int(p.Guest))
}
