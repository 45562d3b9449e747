package initd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// stopGrace is what the guest's processes have between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// reaper owns every child of PID 1: its own and the orphans of the guest. One
// place waits, so that nobody's status is taken by somebody else.
type reaper struct {
	mu       sync.Mutex
	ending   bool // the guest goes down: nothing starts any more
	children map[int]chan syscall.WaitStatus
}

var errEnding = errors.New("the guest is shutting down")

// start runs a program; its status comes on the channel.
func (r *reaper) start(argv []string, attr *syscall.ProcAttr) (<-chan syscall.WaitStatus, error) {
	r.mu.Lock() // held over the fork, so that the child cannot be reaped before it is known
	defer r.mu.Unlock()
	if r.ending {
		return nil, errEnding
	}
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	r.children[pid] = ended
	return ended, nil
}

// reap takes all statuses that are there.
func (r *reaper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.mu.Lock()
		if ended, ok := r.children[pid]; ok {
			ended <- status
			delete(r.children, pid)
		}
		r.mu.Unlock()
	}
}

func supervise(log *slog.Logger, config boot.Config) error {
	r := &reaper{children: map[int]chan syscall.WaitStatus{}}
	// Two queues: a crowd of ended children must not displace the word to end.
	ended, asked := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR)
	go keepServing(log, r)
	if config.Docker {
		go keepDocker(log, r, config)
	}
	go func() {
		<-asked
		r.end()
		endAll(log)
		powerOff()
	}()
	for range ended {
		r.reap()
	}
	return nil
}

func (r *reaper) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
}

// keepServing runs the SSH server and starts it again when it ends, which it does
// only by a fault.
func keepServing(log *slog.Logger, r *reaper) {
	for {
		ended, err := r.start([]string{self, "serve"}, &syscall.ProcAttr{
			Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []uintptr{0, 1, 2},
		})
		switch {
		case errors.Is(err, errEnding):
			return
		case err != nil:
			log.Error("serve", "error", err)
		default:
			log.Error("serve ended", "status", describe(<-ended))
		}
		time.Sleep(200 * time.Millisecond) // a fault that repeats must not eat the processor
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// endAll stops everything but ourselves, the polite way first, and leaves the
// disk clean.
func endAll(log *slog.Logger) {
	signalAll(syscall.SIGTERM)
	for begin := time.Now(); time.Since(begin) < stopGrace && others(); {
		time.Sleep(20 * time.Millisecond)
	}
	signalAll(syscall.SIGKILL)
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		log.Info("the root file system stays writable", "error", err)
	}
}

func signalAll(s syscall.Signal) {
	if err := ignoreMissing(syscall.Kill(-1, s)); err != nil {
		fmt.Fprintln(os.Stderr, "sbx-guest: signal all:", err)
	}
}

// others tells whether a process of user space is left besides PID 1.
func others() bool {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, d := range dirs {
		if name := d.Name(); name[0] < '1' || name[0] > '9' || name == "1" {
			continue
		}
		// Kernel threads have no command line, and neither have zombies.
		if data, err := os.ReadFile("/proc/" + d.Name() + "/cmdline"); err == nil && len(data) > 0 {
			return true
		}
	}
	return false
}
