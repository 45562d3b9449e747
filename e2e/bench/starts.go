package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sandbox is a sandbox of the sbx under test, in a world of its own.
type sandbox struct {
	sbx, dir string
	env      []string
}

// newSandbox writes a project. SBX_HOME is the user's own, so that the guest
// image is not built again for the benchmark.
func newSandbox(o options, dir, name, config string) (sandbox, error) {
	project := filepath.Join(dir, name)
	if err := os.MkdirAll(project, 0o755); err != nil {
		return sandbox{}, err
	}
	text := "version: 1\nname: " + name + "\nresources: {cpus: 2, memory: 2GiB}\n" + config
	return sandbox{sbx: o.sbx, dir: project, env: os.Environ()}, os.WriteFile(filepath.Join(project, "sbx.yaml"), []byte(text), 0o644)
}

func (s sandbox) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.sbx, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

func (s sandbox) run(ctx context.Context, args ...string) error {
	out, err := s.command(ctx, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sbx %s: %w: %s", strings.Join(args, " "), err, lastLines(out))
	}
	return nil
}

type status struct {
	Accel      string `json:"accel"`
	Supervisor int    `json:"supervisor_pid"`
	Ports      []struct {
		Port  int `json:"port"`
		Guest int `json:"guest"`
	} `json:"ports"`
}

func (s sandbox) status(ctx context.Context) (status, error) {
	out, err := s.command(ctx, "status", "--json").Output()
	if err != nil {
		return status{}, fmt.Errorf("sbx status: %w", err)
	}
	var st status
	return st, json.Unmarshal(out, &st)
}

// starts compares a cold start, from nothing but the image to the first command.
func starts(ctx context.Context, o options, dir string) (rows []row, err error) {
	box, err := newSandbox(o, dir, "bench-start", "")
	if err != nil {
		return nil, err
	}
	defer box.run(context.WithoutCancel(ctx), "rm", "-f") //nolint:errcheck // nothing is left to remove after a failed start
	if err := box.run(ctx, "image", "build"); err != nil {
		return nil, err
	}
	var accel string
	var ours []float64
	for range o.samples {
		one, err := sample(1, func() error {
			if err := box.run(ctx, "up"); err != nil {
				return err
			}
			return box.run(ctx, "exec", "--", "true")
		})
		if err != nil {
			return nil, err
		}
		ours = append(ours, one...)
		st, err := box.status(ctx)
		if err != nil {
			return nil, err
		}
		accel = st.Accel
		if err := box.run(ctx, "rm", "-f"); err != nil {
			return nil, err
		}
	}
	peer, err := stockStarts(ctx, o, accel)
	if err != nil {
		return nil, err
	}
	return []row{compare("cold start to the first command", "ms", ours, "Debian guest, systemd, q35, "+accel, peer)}, nil
}

func stockStarts(ctx context.Context, o options, accel string) ([]float64, error) {
	guest, err := openStock(ctx, o.cache, cloudKernel)
	if err != nil {
		return nil, err
	}
	var out []float64
	for range o.samples {
		begin := time.Now()
		r, err := guest.start(ctx, accel)
		if err != nil {
			return out, err
		}
		err = r.firstCommand(ctx)
		took := millis(time.Since(begin))
		r.stop()
		if err != nil {
			return out, err
		}
		out = append(out, took)
	}
	return out, nil
}
