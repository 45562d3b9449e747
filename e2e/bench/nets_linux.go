package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// networks measures the guest's network against its peers, in a network namespace of
// its own: no machine, no packet that leaves the host. The guest is the same for
// all of them: a kernel in a second namespace, behind a TAP.
func networks(ctx context.Context, o options, dir string) ([]row, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", labWord, "-dir", dir, "-gvproxy", o.gvproxy, "-samples", strconv.Itoa(o.netSamples))
	cmd.SysProcAttr = newNamespaces(syscall.CLONE_NEWNS)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	var rows []row
	return rows, json.Unmarshal(out, &rows)
}

// newNamespaces starts a child in a network namespace of its own, and as root of a user
// namespace where this process is not root.
func newNamespaces(more uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | more, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// The words by which this program starts itself as another part of the measurement.
const (
	labWord   = "net-lab"   // the host side: servers, and the conduct of it all
	guestWord = "net-guest" // the guest's kernel and what runs on it
	sbxWord   = "net-sbx"   // the gateway, alone in its process as the peers are
)

// side is one network with a guest behind it.
type side struct {
	network, guest *exec.Cmd
	to             *json.Encoder
	from           *json.Decoder
	close          []func()
}

// order is what the guest is asked to do, result what came of it.
type order struct {
	Op   string
	Port int
	For  time.Duration // of throughput
	N    int           // of latencies and connections
}

type result struct {
	Bytes   int64
	Took    time.Duration
	Samples []float64 // milliseconds
	Err     string
}

func (s *side) do(o order) (result, error) {
	var r result
	if err := errors.Join(s.to.Encode(o), s.from.Decode(&r)); err != nil {
		return r, fmt.Errorf("the guest at %q: %w", o.Op, err)
	}
	if r.Err != "" {
		return r, fmt.Errorf("%s: %s", o.Op, r.Err)
	}
	return r, nil
}

func (s *side) stop() {
	for _, cmd := range []*exec.Cmd{s.guest, s.network} {
		if cmd != nil && cmd.Process != nil {
			cmd.Process.Kill() //nolint:errcheck // it may have ended by itself, Wait tells
			cmd.Wait()         //nolint:errcheck // killed: its status says nothing
		}
	}
	for _, c := range s.close {
		c()
	}
}

// cpu is what the network's process has used so far.
func (s *side) cpu() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.network.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is short")
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2) // USER_HZ is 100 on every Linux with Go
}

// resident is the network process's memory in MiB.
func (s *side) resident() (float64, error) { return memoryOf(s.network.Process.Pid, "VmRSS:") }

// memoryOf is a process's memory in MiB, as the field of /proc/PID/status has it.
func memoryOf(pid int, field string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), field); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kib) / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, pid)
}
