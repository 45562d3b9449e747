package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
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
	// starting is held shared from a folder's making until its command is in it: till
	// then a sweep would take it for one that was left.
	starting sync.RWMutex
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
	path    string
	dir     *os.File
	started func() // ends what new began; must be called, when the command runs or could not
}

func (c *Cgroups) new() (*cgroup, error) {
	n := c.next.Add(1)
	// Not when others are about to start: there is always a next time.
	if n%64 == 0 && c.starting.TryLock() {
		c.sweep()
		c.starting.Unlock()
	}
	c.starting.RLock()
	g, err := c.make(filepath.Join(c.dir, strconv.FormatUint(n, 10)+"-"+strconv.Itoa(os.Getpid())))
	if err != nil {
		c.starting.RUnlock()
		return nil, err
	}
	g.started = func() {
		g.dir.Close()
		c.starting.RUnlock()
	}
	return g, nil
}

func (c *Cgroups) make(path string) (*cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(path, "pids.max"), []byte(strconv.Itoa(maxProcesses)), 0); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	return &cgroup{path: path, dir: dir}, err
}

func (g *cgroup) kill() {
	os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // it may be gone
}

func (g *cgroup) remove() {
	syscall.Rmdir(g.path) //nolint:errcheck // busy: a background process lives there, sweep comes again
}
