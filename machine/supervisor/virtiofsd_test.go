package supervisor

import (
	"slices"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine"
)

// W103: another's server is never started without its own confinement, and whoever acts in the guest is the host's user.
func TestVirtiofsdIsConfined(t *testing.T) {
	args := virtiofsdArgs("/home/u/-a b", machine.User{UID: 1000, GID: 100}, 1234, 56)
	line := strings.Join(args, " ")
	for _, want := range []string{
		"--sandbox namespace", "--seccomp kill", "--uid-map :0:1234:1:", "--gid-map :0:56:1:",
		"--translate-uid squash-guest:0:0:4294967295", "--translate-uid host:0:1000:1", "--translate-gid host:0:100:1",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %q", want, line)
		}
	}
	if i := slices.Index(args, "--shared-dir"); i < 0 || args[i+1] != "/home/u/-a b" {
		t.Errorf("the folder: %q", args)
	}
	if slices.Contains(args, "none") || strings.Contains(line, "modcaps") {
		t.Errorf("confinement given up: %q", line)
	}
}
