package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// shareOfProcesses: one command and its children may be an eighth of what the
// kernel has room for. A fork bomb stops there, in a small guest too; the limit is
// per command, so that the next command starts all the same.
const shareOfProcesses = 8

// Cgroups is the folder in which each command gets a cgroup of its own: its own
// share of the processor, its own limit of processes, and one place to end all of
// it.
type Cgroups struct {
	dir   string
	limit int // processes of one command
	next  atomic.Uint64

	mu   sync.Mutex
	left map[string]bool // of commands that ended and left processes
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
	c := &Cgroups{dir: dir, limit: max(Processes()/shareOfProcesses, 64), left: map[string]bool{}}
	return c, c.adopt()
}

// Processes is how many there can be in the guest.
func Processes() int { return processes("/proc/sys/kernel") }

// processes reads the kernel's bounds: by memory (threads-max) and by number (pid_max).
func processes(settings string) int {
	limit := 32768 // the kernel's own default of pid_max
	for _, name := range []string{"threads-max", "pid_max"} {
		data, err := os.ReadFile(filepath.Join(settings, name))
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	return limit
}

// adopt takes over what an earlier server's commands left.
func (c *Cgroups) adopt() error {
	old, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, d := range old {
		if d.IsDir() {
			c.left[filepath.Join(c.dir, d.Name())] = true
		}
	}
	c.tidy()
	return nil
}

// tidy removes the folders whose last process has ended. A fork bomb whose command
// has ended is no background process that somebody wants: it is ended.
func (c *Cgroups) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path := range c.left {
		if g := (&cgroup{path: path}); g.overflowed() {
			g.kill()
		}
		if err := syscall.Rmdir(path); err == nil || errors.Is(err, os.ErrNotExist) {
			delete(c.left, path)
		}
	}
}

// release is called when a command has ended: what it left in the background stays.
func (c *Cgroups) release(g *cgroup) {
	c.mu.Lock()
	c.left[g.path] = true
	c.mu.Unlock()
	c.tidy()
}

type cgroup struct {
	path string
	dir  *os.File // open until the command is in it
}

func (c *Cgroups) new() (*cgroup, error) {
	c.tidy()
	path := filepath.Join(c.dir, strconv.FormatUint(c.next.Add(1), 10)+"-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(path, "pids.max"), []byte(strconv.Itoa(c.limit)), 0); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	return &cgroup{path: path, dir: dir}, err
}

func (g *cgroup) kill() {
	os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // it may be gone
}

// overflowed tells whether the command ran into its limit of processes ("max 12" in
// pids.events, Documentation/admin-guide/cgroup-v2.rst).
func (g *cgroup) overflowed() bool {
	data, err := os.ReadFile(filepath.Join(g.path, "pids.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "max "); ok {
			return count != "0"
		}
	}
	return false
}
