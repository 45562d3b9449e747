package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
)

// maxProcesses is what one command and its children may be. A fork bomb stops
// there; the limit is per command, so that the next command starts all the same.
const maxProcesses = 8192

// Cgroups is the folder in which each command gets a cgroup of its own: its own
// share of the processor, its own limit of processes, and one place to end all of
// it.
type Cgroups struct {
	dir  string
	next atomic.Uint64
}

// NewCgroups makes the folder below a mounted cgroup2 hierarchy.
func NewCgroups(parent string) (*Cgroups, error) {
	dir := filepath.Join(parent, "exec")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	for _, at := range []string{parent, dir} {
		for _, controller := range []string{"+cpu", "+pids", "+memory"} {
			if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte(controller), 0); err != nil {
				return nil, fmt.Errorf("cgroup controller %s in %s: %w", controller, at, err)
			}
		}
	}
	c := &Cgroups{dir: dir}
	c.sweep()
	return c, nil
}

// sweep removes what earlier commands left; a folder with processes stays.
func (c *Cgroups) sweep() {
	old, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, d := range old {
		if d.IsDir() {
			syscall.Rmdir(filepath.Join(c.dir, d.Name())) //nolint:errcheck // busy: a background process lives there
		}
	}
}

type cgroup struct {
	path string
	dir  *os.File
}

func (c *Cgroups) new() (*cgroup, error) {
	n := c.next.Add(1)
	if n%64 == 0 {
		c.sweep()
	}
	g := &cgroup{path: filepath.Join(c.dir, strconv.FormatUint(n, 10)+"-"+strconv.Itoa(os.Getpid()))}
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(g.path, "pids.max"), []byte(strconv.Itoa(maxProcesses)), 0); err != nil {
		return nil, err
	}
	var err error
	g.dir, err = os.Open(g.path)
	return g, err
}

func (g *cgroup) kill() {
	os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // it may be gone
}

func (g *cgroup) remove() {
	syscall.Rmdir(g.path) //nolint:errcheck // busy: a background process lives there, sweep comes again
}
