package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// promisedMemory is the supervisor's limit at idle, in MiB.
const promisedMemory = 64

// execs compares a warm command with OpenSSH's ControlMaster to the same guest,
// and weighs the supervisor at idle.
func execs(ctx context.Context, o options, dir string) ([]row, error) {
	box, err := newSandbox(o, dir, "bench-exec", "network: {presets: [debian]}\nports: [\"127.0.0.1:0:22\"]\n")
	if err != nil {
		return nil, err
	}
	defer box.run(context.WithoutCancel(ctx), "rm", "-f") //nolint:errcheck // nothing is left to remove after a failed start
	if err := box.run(ctx, "up"); err != nil {
		return nil, err
	}
	st, err := box.status(ctx)
	if err != nil {
		return nil, err
	}
	memory, err := residentMiB(st.Supervisor)
	if err != nil {
		return nil, err
	}
	rows := []row{compare("supervisor memory at idle", "MiB", []float64{memory}, "promise", []float64{promisedMemory})}

	master, err := box.controlMaster(ctx, st, dir)
	if err != nil {
		return rows, err
	}
	ours, peer, err := interleave(o.samples*10,
		func() error { return box.command(ctx, "exec", "--", "true").Run() },
		func() error { return master.command(ctx, "true").Run() })
	if err != nil {
		return rows, err
	}
	return append(rows, compare("warm exec of true", "ms", ours, "ssh with ControlMaster", peer)), nil
}

// interleave takes the two series alternately, so that a slow minute of the
// machine falls on both.
func interleave(n int, ours, peer func() error) (a, b []float64, err error) {
	for range n {
		x, errOurs := sample(1, ours)
		y, errPeer := sample(1, peer)
		if err := errors.Join(errOurs, errPeer); err != nil {
			return a, b, err
		}
		a, b = append(a, x...), append(b, y...)
	}
	return a, b, nil
}

type controlMaster struct {
	args []string
}

func (m controlMaster) command(ctx context.Context, more ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append(m.args[:len(m.args):len(m.args)], more...)...)
}

// controlMaster installs OpenSSH's server in the guest, through the gateway, and
// opens a master connection to it through a published port.
func (s sandbox) controlMaster(ctx context.Context, st status, dir string) (controlMaster, error) {
	key := filepath.Join(dir, "key")
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
		return controlMaster{}, err
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		return controlMaster{}, err
	}
	script := `sudo apt-get install -y -q --no-install-recommends openssh-server
mkdir -p ~/.ssh && cat > ~/.ssh/authorized_keys && chmod -R go= ~/.ssh
sudo mkdir -p /run/sshd && pgrep -x sshd >/dev/null || sudo /usr/sbin/sshd`
	install := s.command(ctx, "exec", "--", "sh", "-ec", script)
	install.Stdin = bytes.NewReader(public)
	if out, err := install.CombinedOutput(); err != nil {
		return controlMaster{}, fmt.Errorf("start sshd in the guest: %w: %s", err, lastLines(out))
	}
	if len(st.Ports) != 1 {
		return controlMaster{}, fmt.Errorf("%d published ports, want 1", len(st.Ports))
	}
	m := controlMaster{args: []string{
		"-i", key, "-p", strconv.Itoa(st.Ports[0].Port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "BatchMode=yes", "-o", "ControlPath=" + filepath.Join(dir, "cm"), "agent@127.0.0.1"}}
	master := m.command(ctx, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-f", "-N")
	// A master that goes to the background keeps its output open: nothing to wait for there.
	master.Stdout, master.Stderr = nil, nil
	if err := master.Run(); err != nil {
		return m, fmt.Errorf("open the master connection: %w", err)
	}
	return m, nil
}

// residentMiB is a process's resident memory, from /proc/PID/status.
func residentMiB(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", pid)
}
