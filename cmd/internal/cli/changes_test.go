package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

func someSpec() machine.Spec {
	return machine.Spec{
		Version: 1, Name: "shop", Project: "/p", Arch: "amd64", Image: "abc",
		Resources: machine.Resources{CPUs: 2, Memory: machine.GiB, Disk: 20 * machine.GiB},
		Workspace: machine.Workspace{Mode: machine.ModeMount, Target: "/p", Mounts: []machine.Mount{}},
		Network: netfilter.Spec{Default: "deny", Rules: []netfilter.Rule{{
			Action: netfilter.Allow, Pattern: "a.example", Origin: netfilter.Origin{Source: "project", File: "sbx.yaml", Line: 3},
		}}},
		Env:   map[string]string{},
		Ports: nil,
	}
}

// stored is a spec as it comes back from the disk.
func stored(t *testing.T, spec machine.Spec) machine.Spec {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var back machine.Spec
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

func TestCompareSpecs(t *testing.T) {
	tests := map[string]struct {
		change         func(*machine.Spec)
		restart, reset string
	}{
		"nothing":    {change: func(*machine.Spec) {}},
		"moved line": {change: func(s *machine.Spec) { s.Network.Rules[0].Origin.Line = 9 }},
		"new image":  {change: func(s *machine.Spec) { s.Image = "def" }},
		"cpus":       {change: func(s *machine.Spec) { s.Resources.CPUs = 4 }, restart: "cpus"},
		"rule":       {change: func(s *machine.Spec) { s.Network.Rules[0].Pattern = "b.example" }, restart: "network"},
		"env":        {change: func(s *machine.Spec) { s.Env = map[string]string{"A": "b"} }, restart: "env"},
		"port":       {change: func(s *machine.Spec) { s.Ports = []machine.Port{{Guest: 80}} }, restart: "ports"},
		"mount":      {change: func(s *machine.Spec) { s.Workspace.Mounts = []machine.Mount{{Source: "/d"}} }, restart: "workspace"},
		"disk":       {change: func(s *machine.Spec) { s.Resources.Disk = 30 * machine.GiB }, reset: "disk (20 GiB, now 30 GiB)"},
		"arch":       {change: func(s *machine.Spec) { s.Arch = "arm64" }, reset: "arch (amd64, now arm64)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old, now := stored(t, someSpec()), someSpec()
			test.change(&now)
			c := compareSpecs(old, now)
			if got := strings.Join(c.restart, " "); got != test.restart {
				t.Errorf("restart: %q, want %q", got, test.restart)
			}
			if got := strings.Join(c.reset, " "); got != test.reset {
				t.Errorf("reset: %q, want %q", got, test.reset)
			}
			next := nextSpec(old, now)
			if next.Image != old.Image || next.Resources.Disk != old.Resources.Disk || next.Arch != old.Arch {
				t.Errorf("the next start would have another disk: %+v", next)
			}
			if !cmp.Equal(next.Network, now.Network) {
				t.Error("the next start would not take the network over")
			}
		})
	}
}

func TestChangeNotices(t *testing.T) {
	c := changes{restart: []string{"cpus", "env"}, reset: []string{"disk"}}
	if got := c.notices(true); len(got) != 2 || !strings.Contains(got[0], "cpus, env") || !strings.Contains(got[0], "sbx restart") ||
		!strings.Contains(got[1], "sbx reset") {
		t.Errorf("running: %q", got)
	}
	if got := c.notices(false); len(got) != 1 || !strings.Contains(got[0], "disk") {
		t.Errorf("starting: %q", got)
	}
	if got := (changes{}).notices(true); got != nil {
		t.Errorf("no change: %q", got)
	}
}
