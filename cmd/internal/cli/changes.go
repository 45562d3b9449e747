package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// changes is how a configuration differs from the sandbox that was made of an
// earlier one: what a new start takes over, and what only a new disk can.
type changes struct {
	restart, reset []string
}

// compareSpecs finds the changes from the stored spec to the wanted one. The image
// is not compared: a sandbox keeps the one that its disk was made on.
func compareSpecs(stored, wanted machine.Spec) changes {
	var c changes
	for _, part := range []struct {
		name     string
		old, now any
	}{
		{"cpus", stored.Resources.CPUs, wanted.Resources.CPUs},
		{"memory", stored.Resources.Memory, wanted.Resources.Memory},
		{"workspace", stored.Workspace, wanted.Workspace},
		{"network", withoutOrigin(stored.Network), withoutOrigin(wanted.Network)},
		{"ports", stored.Ports, wanted.Ports},
		{"env", stored.Env, wanted.Env},
		{"user", stored.User, wanted.User},
		{"docker", stored.Docker, wanted.Docker},
	} {
		if !sameValue(part.old, part.now) {
			c.restart = append(c.restart, part.name)
		}
	}
	if stored.Resources.Disk != wanted.Resources.Disk {
		c.reset = append(c.reset, fmt.Sprintf("disk (%s, now %s)", size(stored.Resources.Disk), size(wanted.Resources.Disk)))
	}
	if stored.Arch != wanted.Arch {
		c.reset = append(c.reset, fmt.Sprintf("arch (%s, now %s)", stored.Arch, wanted.Arch))
	}
	return c
}

// sameValue compares what went through JSON with what did not: there, an empty list
// and none are the same.
func sameValue(a, b any) bool { return jsonText(a) == jsonText(b) }

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error() // the parts of a Spec marshal
	}
	if s := string(text); s != "null" && s != "[]" {
		return s
	}
	return "{}"
}

// withoutOrigin is a network without where its rules stand: a line that moved in
// the file changed nothing.
func withoutOrigin(network netfilter.Spec) netfilter.Spec {
	network.Rules = slices.Clone(network.Rules)
	for i := range network.Rules {
		network.Rules[i].Origin = netfilter.Origin{Source: network.Rules[i].Origin.Source}
	}
	return network
}

// nextSpec returns the spec of the next start: all of the configuration but what the
// disk decides.
func nextSpec(stored, wanted machine.Spec) machine.Spec {
	next := wanted
	next.Name, next.Image, next.Arch = stored.Name, stored.Image, stored.Arch
	next.Resources.Disk = stored.Resources.Disk
	return next
}

// notices says what of the changes does not hold yet, for a sandbox that runs or
// one that is being started.
func (c changes) notices(running bool) []string {
	var lines []string
	if running && len(c.restart) > 0 {
		lines = append(lines, fmt.Sprintf("the configuration changed (%s): takes effect with `sbx restart`", strings.Join(c.restart, ", ")))
	}
	if len(c.reset) > 0 {
		lines = append(lines, fmt.Sprintf("the configuration changed (%s): takes a new disk, `sbx reset`", strings.Join(c.reset, ", ")))
	}
	return lines
}
