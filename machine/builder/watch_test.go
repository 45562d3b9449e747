package builder

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/guest/boot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// steps records phases.
type steps struct{ names []string }

func (s *steps) Phase(name string, _ int64) { s.names = append(s.names, name) }
func (s *steps) Add(int64)                  {}
func (s *steps) Warn(string)                {}

func follow(t *testing.T, text string) (*console, *steps, string, error) {
	t.Helper()
	ours, guest := net.Pipe()
	go func() {
		guest.Write([]byte(text)) //nolint:errcheck // follow may stop early
		guest.Close()
	}()
	defer ours.Close()
	var log bytes.Buffer
	seen := &steps{}
	c := &console{log: &log, left: 1 << 10, progress: seen, stalled: func() {}}
	err := c.follow(ours)
	return c, seen, log.String(), err
}

func TestFollow(t *testing.T) {
	tests := []struct {
		name, text string
		done       bool
		steps      string
		err        string
	}{
		{"done", "booting\r\nsbx-build: step: unpack\r\n" + boot.BuildDone + "\r\n", true, "unpack", ""},
		{"failed", boot.BuildFailed + ": dpkg said no\n", false, "", "dpkg said no"},
		{"died", "Kernel panic\n", false, "", ""},
		{"no newline at the end", boot.BuildDone, true, "", ""},
		{"done inside a line is not done", "echo " + boot.BuildDone + "\n", false, "", ""},
		{"nothing", "", false, "", ""},
		{"escapes do not reach the terminal", "sbx-build: step: \x1b]0;x\x07\x1b[31mred\n", false, "]0;x[31mred", ""},
		{"endless line", strings.Repeat("x", 1<<20), false, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, seen, log, err := follow(t, test.text)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error is %v", err)
			}
			if c.done != test.done || strings.Join(seen.names, ",") != test.steps {
				t.Errorf("done %v, steps %q", c.done, seen.names)
			}
			if len(log) > 1<<10 {
				t.Errorf("log has %d bytes", len(log))
			}
		})
	}
}

func TestProvisioningWithoutNetworkIsRefused(t *testing.T) {
	err := Builder{}.Build(t.Context(), image.BuildInput{Arch: "amd64", Provision: []string{"true"}})
	if err == nil || !strings.Contains(err.Error(), "network") {
		t.Errorf("error is %v", err)
	}
}

func TestMachineHasNoNetworkWithoutProvisioning(t *testing.T) {
	b := Builder{Net: &boot.Net{MAC: "52:54:00:00:00:01"}}
	if m := b.machine(image.BuildInput{Arch: "amd64", Payload: "p"}, "i"); m.MAC != "" || m.Share != "" || m.SSHPort != "" || !m.Disks[1].ReadOnly {
		t.Errorf("machine is %+v", m)
	}
	if m := b.machine(image.BuildInput{Arch: "amd64", Provision: []string{"true"}}, "i"); m.MAC != b.Net.MAC || len(m.Disks) != 1 {
		t.Errorf("machine is %+v", m)
	}
}
