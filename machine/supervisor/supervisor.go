// Package supervisor is the process that owns one running sandbox: everything
// with a lifetime is a component of it, started in order and ended in reverse.
//
//	lock → file server → QEMU → gateway → ports → guest (SSH) → control socket
//
// The life lock is held for as long as the process lives. Children die with it, by
// the kernel's death signal and by the end of their sockets. It tells its starter
// how far it is as JSON lines on an inherited pipe, then belongs to nobody: it has
// a session, a log and a folder of its own, and ends when the guest does.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control/server"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/gateway"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// Phase is how far a start is, for a person.
type Phase string

// The phases.
const (
	PhasePrepare Phase = "preparing"
	PhaseBoot    Phase = "booting"
	PhaseGuest   Phase = "waiting for the guest"
	PhaseCopy    Phase = "copying the workspace"
)

// Options are what a supervisor is given.
type Options struct {
	Store  *store.Store
	Name   string
	Self   string              // path of sbx, for the children
	Getenv func(string) string // SBX_ACCEL, SSL_CERT_FILE
	Log    *slog.Logger
	Tell   func(Message) // readiness; must not block for ever
}

// Message is a line on the readiness pipe. The last has Ready or Error.
type Message struct {
	Phase Phase  `json:"phase,omitempty"`
	Ready bool   `json:"ready,omitempty"`
	Error string `json:"error,omitempty"`
}

// Supervisor is the running process.
type Supervisor struct {
	o     Options
	files *store.Sandbox
	spec  machine.Spec
	img   image.Image
	host  qemu.Host

	rules     *rules
	secrets   *secrets
	authority *intercept.Authority
	audit     *audit.Log
	share     *fileServer
	qemu      *qemu.Process
	gateway   *gateway.Gateway
	ports     *ports
	guest     *guest
	mirror    *mirrored // modes sync and review
	control   *server.Server

	mu     sync.Mutex
	record store.Record
	ending bool          // somebody asked for the end
	stop   chan struct{} // closed by the first who asks
}

// Run supervises until the sandbox ends or ctx does. The error is what kept it
// from starting; the end of a sandbox that had started is in its record.
func Run(ctx context.Context, o Options) error {
	s := &Supervisor{o: o, files: o.Store.Sandbox(o.Name), stop: make(chan struct{})}
	unlock, err := s.files.Life(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s.files.Settle()
	if s.spec, err = s.files.ReadSpec(); err != nil {
		return err
	}
	s.secrets = &secrets{s: s}
	s.record = store.Record{State: machine.Starting, Started: time.Now().UTC(), Supervisor: store.Identify(os.Getpid())}
	if err := s.files.WriteRecord(s.record); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		s.end(context.WithoutCancel(ctx))
		s.finish(machine.Crashed, err.Error())
		return err
	}
	o.Tell(Message{Ready: true})
	state, reason := s.wait(ctx)
	s.o.Log.Info("ending", "state", state, "reason", reason)
	s.setState(machine.Stopping, reason)
	s.end(context.WithoutCancel(ctx))
	s.finish(state, reason)
	return nil
}

// component is one part of a sandbox.
type component struct {
	name  string
	start func(context.Context) error
}

func (s *Supervisor) start(ctx context.Context) error {
	for _, c := range []component{
		{"preparation", s.prepare},
		{"file server", s.startFileServer},
		{"machine", s.startMachine},
		{"gateway", s.startGateway},
		{"ports", s.startPorts},
		{"guest", s.startGuest},
		{"mirror", s.startMirror},
		{"control socket", s.startControl},
	} {
		begin := time.Now()
		if err := c.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		s.o.Log.Info("started", "component", c.name, "ms", time.Since(begin).Milliseconds())
	}
	s.setState(machine.Running, "")
	return nil
}

// wait returns when the sandbox has ended or is to end, and says how.
func (s *Supervisor) wait(ctx context.Context) (machine.State, string) {
	select {
	case <-ctx.Done():
		s.shutDown(context.WithoutCancel(ctx))
		return machine.Stopped, ""
	case <-s.stop:
		s.shutDown(context.WithoutCancel(ctx))
		return machine.Stopped, ""
	case <-s.share.ended():
		return s.afterFileServer()
	case <-s.qemu.Done():
		return s.afterQEMU()
	}
}

// afterFileServer tells a fault of the file server, which leaves the guest without
// its files and must end the machine, from its orderly end because QEMU hung up.
func (s *Supervisor) afterFileServer() (machine.State, string) {
	if s.share.err == nil {
		select {
		case <-s.qemu.Done():
			return s.afterQEMU()
		case <-time.After(s.patience(quitGrace)):
		}
	}
	return machine.Crashed, "the file server ended: " + s.share.why()
}

// afterQEMU tells an orderly power-off of the guest from a fault.
func (s *Supervisor) afterQEMU() (machine.State, string) {
	s.mu.Lock()
	asked := s.ending
	s.mu.Unlock()
	switch err := s.qemu.Err(); {
	case err != nil:
		return machine.Crashed, fmt.Sprintf("qemu ended: %v: %s", err, s.qemu.Stderr())
	case asked:
		return machine.Stopped, ""
	case s.guest != nil && s.guest.console.panicked():
		return machine.Crashed, "the guest's kernel panicked: sbx logs --kind boot"
	default:
		return machine.Stopped, "the guest powered itself off"
	}
}

// Times of an end, doubled under emulation.
const (
	guestGrace = 10 * time.Second
	quitGrace  = 5 * time.Second
)

func (s *Supervisor) patience(d time.Duration) time.Duration {
	if s.host.Accel == machine.TCG {
		return 2 * d
	}
	return d
}

// shutDown asks the guest to end and waits for it.
func (s *Supervisor) shutDown(ctx context.Context) {
	s.setState(machine.Stopping, "")
	s.flushMirror(ctx)
	ctx, cancel := context.WithTimeout(ctx, s.patience(guestGrace))
	defer cancel()
	if err := s.guest.shutDown(ctx); err != nil {
		s.o.Log.Warn("ask the guest to end", "error", err)
		return
	}
	select {
	case <-s.qemu.Done():
	case <-ctx.Done():
		s.o.Log.Warn("the guest did not end when asked to")
	}
}

// end ends what is left, in reverse, also after a start that failed half-way.
func (s *Supervisor) end(ctx context.Context) {
	s.mirror.close()
	if s.guest != nil {
		s.guest.close()
	}
	if s.ports != nil {
		s.ports.close()
	}
	if s.qemu != nil {
		quit, cancel := context.WithTimeout(ctx, s.patience(quitGrace))
		if err := s.qemu.Quit(quit); err != nil {
			s.o.Log.Warn("end qemu", "error", err)
		}
		cancel()
	}
	if s.gateway != nil {
		if err := s.gateway.Close(); err != nil {
			s.o.Log.Warn("end the gateway", "error", err)
		}
	}
	if s.qemu != nil {
		s.qemu.Console.Close()
	}
	if s.share != nil {
		s.share.kill()
	}
	if s.audit != nil {
		if err := s.audit.Close(); err != nil {
			s.o.Log.Warn("end the audit log", "error", err)
		}
	}
}

// finish writes how it ended, then takes the sockets away.
func (s *Supervisor) finish(state machine.State, reason string) {
	s.mu.Lock()
	s.record.State, s.record.Reason, s.record.Children, s.record.Supervisor, s.record.Ports = state, reason, nil, store.Process{}, nil
	err := s.files.WriteRecord(s.record)
	s.mu.Unlock()
	if err != nil {
		s.o.Log.Error("write the record", "error", err)
	}
	if s.control != nil {
		if err := s.control.Close(); err != nil {
			s.o.Log.Warn("end the control socket", "error", err)
		}
	}
	for _, path := range []string{s.files.ControlSocket(), s.files.SSHSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.o.Log.Warn("remove a socket", "error", err)
		}
	}
}

// setState changes the record, in memory and on disk.
func (s *Supervisor) setState(state machine.State, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.State, s.record.Reason = state, reason
	if err := s.files.WriteRecord(s.record); err != nil {
		s.o.Log.Error("write the record", "error", err)
	}
}

// adopt notes a child, so that the next command can end it if we cannot.
func (s *Supervisor) adopt(pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.Children = append(s.record.Children, store.Identify(pid))
	return s.files.WriteRecord(s.record)
}
