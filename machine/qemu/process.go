package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/qmp"
)

// Config is one start.
type Config struct {
	Host      Host
	Machine   Machine
	Self      string   // path of sbx, for the confining step
	UID, GID  int      // to become when sbx runs as root; 0 keeps the user
	SSHSocket string   // path for the listening socket of the SSH port, in a folder of the caller's own; the caller removes it
	Share     *os.File // our file server's connection, QEMU's end; Start takes it over
}

// Process is a running QEMU. The connections are the caller's to read and close.
type Process struct {
	QMP     *qmp.Client
	Net     net.Conn // frames of the guest's network interface, nil without one
	Console net.Conn // what the guest prints

	cmd    *exec.Cmd
	ssh    sshPort
	stderr tail
	done   chan struct{}
	err    error
}

// Start runs the machine. It returns when the monitor answers; the guest runs from
// then on. The process dies with its starter, and is killed when ctx ends before
// the monitor answers.
func Start(ctx context.Context, c Config) (*Process, error) {
	f, err := openFiles(c)
	if err != nil {
		return nil, err
	}
	defer f.closeChild()
	args, err := Args(c.Host, c.Machine, f.fd)
	if err != nil {
		f.closeOurs()
		return nil, err
	}
	profile := confine.Profile{UID: c.UID, GID: c.GID, Groups: accelGroups(c.Host.Accel), Devices: accelDevices(c.Host.Accel)}
	cmd, err := confine.Command(c.Self, profile, c.Host.Binary, args...)
	if err != nil {
		f.closeOurs()
		return nil, err
	}
	p := &Process{Net: f.net, Console: f.console, cmd: cmd, ssh: sshPort{path: c.SSHSocket}, done: make(chan struct{})}
	cmd.ExtraFiles, cmd.Stderr, cmd.Env = f.child, &p.stderr, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := p.launch(); err != nil {
		f.closeOurs()
		return nil, fmt.Errorf("start %s: %w", c.Host.Binary, err)
	}
	f.closeChild()
	if p.QMP, err = qmp.New(ctx, f.qmp); err != nil {
		err = p.explain(err)
		p.Kill()
		f.closeOurs()
		return nil, err
	}
	if err := p.watchSSH(); err != nil {
		p.Kill()
		f.closeOurs()
		return nil, err
	}
	return p, nil
}

// launch starts the child from a thread that lives until the child has ended:
// the kernel's death signal follows the thread, not the process.
func (p *Process) launch() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return <-started
}

// explain adds what QEMU said before it ended: the error of the monitor alone is
// "connection closed".
func (p *Process) explain(err error) error {
	select {
	case <-p.done:
	case <-time.After(time.Second):
		return err
	}
	return fmt.Errorf("qemu ended: %w: %s", p.Err(), p.stderr.String())
}

// PID is the process's id; the confining step and QEMU are one process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil after an orderly end. It must be called after Done.
func (p *Process) Err() error { return p.err }

// Stderr is the last of what QEMU complained about.
func (p *Process) Stderr() string { return p.stderr.String() }

// Kill ends the process and waits until it has ended. It can be called twice.
func (p *Process) Kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	<-p.done
}

// Quit asks QEMU to end at once, which flushes its disks; it is killed when it has
// not ended when ctx does.
func (p *Process) Quit(ctx context.Context) error {
	err := p.QMP.Execute(ctx, "quit", nil, nil)
	if err != nil && !errors.Is(err, qmp.ErrClosed) && ctx.Err() == nil {
		err = fmt.Errorf("quit: %w", err)
	} else {
		err = nil
	}
	select {
	case <-p.done:
		return err
	case <-ctx.Done():
		p.Kill()
		return errors.Join(err, errors.New("qemu did not end when asked to and was killed"))
	}
}

// tail keeps the last 4 KiB of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(b []byte) (int, error) {
	const keep = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - keep; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
