package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// syncEngines are ours and the peers.
func syncEngines() []string { return []string{ours, "mutagen", "unison", "rsync"} }

func newEngine(name string, o options, dir string) engine {
	switch name {
	case "mutagen":
		return &mutagen{program: o.mutagen, dir: dir}
	case "unison":
		return &unison{dir: dir}
	case "rsync":
		return &rsync{dir: dir}
	}
	return &sbxMirror{dir: dir}
}

// mutagen has a daemon, which stands for both ends where both are local.
type mutagen struct{ program, dir string }

func (m *mutagen) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, m.program, args...)
	cmd.Env = append(os.Environ(), "MUTAGEN_DATA_DIRECTORY="+filepath.Join(m.dir, "mutagen"))
	return finish(cmd)
}

func (m *mutagen) begin(ctx context.Context) error {
	return errors.Join(m.run(ctx, "daemon", "start"),
		m.run(ctx, "sync", "create", "--name", "bench", filepath.Join(m.dir, hostSide), filepath.Join(m.dir, farSide)))
}

func (m *mutagen) flush(ctx context.Context) error { return m.run(ctx, "sync", "flush", "bench") }

func (m *mutagen) watch(context.Context) (bool, error) { return true, nil }

func (m *mutagen) peak() (float64, error) {
	pids, err := withEnv("MUTAGEN_DATA_DIRECTORY=" + filepath.Join(m.dir, "mutagen"))
	if err != nil {
		return 0, err
	}
	return peakOf(pids...)
}

func (m *mutagen) end() {
	m.run(context.Background(), "daemon", "stop") //nolint:errcheck // it may never have started
}

// withEnv finds processes by a line of their environment: a daemon is nobody's child.
func withEnv(line string) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		pid, notPID := strconv.Atoi(e.Name())
		if notPID != nil {
			continue
		}
		env, gone := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if gone == nil && strings.Contains("\x00"+string(env), "\x00"+line+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// peakOf is the sum of what each process held at most, in MiB.
func peakOf(pids ...int) (sum float64, err error) {
	for _, pid := range pids {
		held, err := memoryOf(pid, "VmHWM:")
		if err != nil {
			return 0, err
		}
		sum += held
	}
	if sum == 0 {
		return 0, errors.New("no process to measure")
	}
	return sum, nil
}

// unison runs once per flush. Debian's has no watcher, so that it looks every second where it is to copy by itself.
type unison struct {
	dir     string
	repeats *exec.Cmd
}

func (u *unison) command(ctx context.Context, more ...string) *exec.Cmd {
	args := append([]string{filepath.Join(u.dir, hostSide), filepath.Join(u.dir, farSide), "-batch", "-silent", "-confirmbigdel=false"}, more...)
	cmd := exec.CommandContext(ctx, "unison", args...)
	cmd.Env = append(os.Environ(), "UNISON="+filepath.Join(u.dir, "unison"))
	return cmd
}

func (u *unison) begin(context.Context) error { return nil }

func (u *unison) flush(ctx context.Context) error {
	return finish(u.command(ctx))
}

func (u *unison) watch(ctx context.Context) (bool, error) {
	u.repeats = u.command(ctx, "-repeat", "1")
	return true, u.repeats.Start()
}

func (u *unison) peak() (float64, error) { return peakOf(u.repeats.Process.Pid) }

func (u *unison) end() {
	if u.repeats != nil {
		u.repeats.Process.Kill() //nolint:errcheck // Wait tells
		u.repeats.Wait()         //nolint:errcheck // killed: its status says nothing
	}
}

// rsync copies one way, once.
type rsync struct{ dir string }

func (r *rsync) begin(context.Context) error { return nil }

func (r *rsync) flush(ctx context.Context) error {
	return command(ctx, "rsync", "-a", "--delete", filepath.Join(r.dir, hostSide)+"/", filepath.Join(r.dir, farSide)+"/")
}

func (r *rsync) watch(context.Context) (bool, error) { return false, nil }
func (r *rsync) peak() (float64, error)              { return 0, nil } // it is gone by then
func (r *rsync) end()                                {}
