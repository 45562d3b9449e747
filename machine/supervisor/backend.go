package supervisor

import (
	"context"
	"io"
	"maps"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/control/server"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/gateway"
)

// backend is the Supervisor as the control socket sees it.
type backend struct{ s *Supervisor }

var _ server.Backend = backend{}

func (s *Supervisor) startControl(context.Context) error {
	var err error
	s.control, err = server.Listen(s.files.ControlSocket(), backend{s}, s.o.Log)
	return err
}

func (b backend) Status() machine.Status {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st := machine.Status{
		Name: s.spec.Name, State: s.record.State, Reason: s.record.Reason, Project: s.spec.Project, Arch: s.spec.Arch, Accel: s.host.Accel,
		CPUs: s.spec.Resources.CPUs, Memory: s.spec.Resources.Memory, Disk: s.spec.Resources.Disk, Image: s.spec.Image,
		Started: s.record.Started, Supervisor: s.record.Supervisor.PID, QEMU: s.qemu.PID(), FileServer: s.share.pid(), Ports: s.ports.list,
		Mode: s.spec.Workspace.Mode, Mirror: s.mirror.status(),
	}
	select {
	case <-s.gateway.Done():
		if st.State == machine.Running {
			st.Reason = "the network gateway ended, the guest has no network: sbx restart"
		}
	default:
	}
	return st
}

// Stop asks for the end once and waits for the machine's.
func (b backend) Stop(ctx context.Context) error {
	s := b.s
	s.mu.Lock()
	if !s.ending {
		s.ending = true
		close(s.stop)
	}
	s.mu.Unlock()
	select {
	case <-s.qemu.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b backend) Exec(ctx context.Context, request control.ExecRequest, streams control.Streams) (control.Exit, error) {
	// A secret that was set after the start is in the environment of what begins now.
	if env := b.s.secrets.environment(); len(env) > 0 {
		maps.Copy(env, request.Env)
		request.Env = env
	}
	return b.s.guest.exec(ctx, request, streams)
}

func (b backend) SFTP(ctx context.Context) (io.ReadWriteCloser, error) { return b.s.guest.sftp(ctx) }

func (b backend) Docker(ctx context.Context) (io.ReadWriteCloser, error) {
	return b.s.guest.docker(ctx)
}

func (b backend) Policy() control.PolicyView { return b.s.rules.view() }

func (b backend) EditPolicy(edit control.PolicyEdit) (control.PolicyView, error) {
	if err := b.s.rules.edit(edit); err != nil {
		return control.PolicyView{}, err
	}
	return b.s.rules.view(), nil
}

func (b backend) Pending(ctx context.Context, seen *uint64) (control.Pending, error) {
	if seen == nil {
		list, version, err := b.s.gateway.WaitPending(ctx, 0)
		return pending(list, version), err
	}
	list, version, err := b.s.gateway.WaitPending(ctx, *seen)
	return pending(list, version), err
}

func pending(list []gateway.Question, version uint64) control.Pending {
	p := control.Pending{Seen: version, Questions: []control.Question{}}
	for _, q := range list {
		p.Questions = append(p.Questions, control.Question{ID: q.ID, Name: q.Name, Port: q.Port, Since: q.Since, Until: q.Until, Count: q.Count})
	}
	return p
}

func (b backend) Answer(a control.Answer) error {
	if a.Scope != control.ScopeRun {
		return b.s.gateway.Answer(a.ID, a.Allow)
	}
	for _, q := range b.s.gateway.Pending() {
		if q.ID != a.ID {
			continue
		}
		_, err := b.s.rules.answer(q.Name, q.Port, a.Allow)
		return err
	}
	return gateway.ErrNoQuestion
}

func (b backend) Live() []control.Connection {
	list := []control.Connection{}
	for _, f := range b.s.gateway.Live() {
		list = append(list, control.Connection{
			ID: f.ID, Name: f.Name, Addr: f.Addr, Port: f.Port, Proto: f.Proto, Rule: f.Rule, Started: f.Started,
			BytesUp: f.BytesUp, BytesDown: f.BytesDown,
		})
	}
	return list
}

func (b backend) Checkpoint(label string) (int, error) {
	if b.s.mirror != nil {
		return b.s.mirror.checkpoint(label)
	}
	return b.s.share.checkpoint(label)
}

func (b backend) Flush() error {
	if b.s.mirror != nil {
		return nil // its journal lets nothing wait
	}
	return b.s.share.flush()
}

// ReloadSecrets reads the values again. What fails of it leaves that secret without a value.
func (b backend) ReloadSecrets(ctx context.Context) ([]string, error) {
	err := b.s.secrets.load(ctx)
	b.s.gateway.SetSecrets(b.s.secrets.vault())
	return b.s.secrets.missing(), err
}

func (b backend) Denials(since time.Time) []audit.Entry { return b.s.gateway.Denials(since) }
