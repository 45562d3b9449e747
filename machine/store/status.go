package store

import (
	"context"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
)

// answerLimit is what a living supervisor has to answer. It does nothing else in
// that moment; a slow host is the reason for the second.
const answerLimit = time.Second

// Status says how a sandbox stands. What its supervisor answers counts; without an
// answer, who holds the life lock; only then what the files say. A dead
// predecessor's processes and sockets are cleaned away on the way.
func (s *Store) Status(ctx context.Context, name string) machine.Status {
	b := s.Sandbox(name)
	spec, err := b.ReadSpec()
	if err != nil {
		return machine.Status{Name: name, State: machine.Broken, Reason: err.Error()}
	}
	if st, err := askSupervisor(ctx, b.ControlSocket()); err == nil && st.Name == name {
		return st
	}
	st := describe(spec)
	unlock, free, err := b.tryLife()
	if err != nil {
		st.State, st.Reason = machine.Broken, err.Error()
		return st
	}
	if free {
		defer unlock()
		b.settle()
	}
	record, err := b.ReadRecord()
	if err != nil {
		st.State, st.Reason = machine.Broken, err.Error()
		return st
	}
	st.State, st.Reason = record.State, record.Reason
	if !free && (record.State == machine.Stopped || record.State == machine.Crashed) {
		st.State = machine.Starting // a supervisor lives and has not said anything yet
	}
	return st
}

// describe is what of a status follows from the spec.
func describe(spec machine.Spec) machine.Status {
	return machine.Status{
		Name: spec.Name, Project: spec.Project, Arch: spec.Arch, Image: spec.Image,
		CPUs: spec.Resources.CPUs, Memory: spec.Resources.Memory, Disk: spec.Resources.Disk,
	}
}

func askSupervisor(ctx context.Context, socket string) (machine.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	client, err := control.Dial(ctx, socket)
	if err != nil {
		return machine.Status{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// Settle cleans up after a predecessor that ended without saying so. The caller
// holds the life lock.
func (b *Sandbox) Settle() { b.settle() }

func (b *Sandbox) settle() {
	record, err := b.ReadRecord()
	if err != nil {
		return // Status says what is wrong with it
	}
	if record.BootID == bootID() {
		for _, p := range record.Children {
			p.end()
		}
	}
	b.removeSockets()
	if record.State == machine.Stopped || record.State == machine.Crashed {
		return
	}
	record.Reason = "its supervisor ended without a word (killed, or the host went down)"
	if record.BootID != bootID() {
		record.Reason = "the host was restarted while it ran"
	}
	record.State, record.Children, record.Supervisor = machine.Crashed, nil, Process{}
	if err := b.WriteRecord(record); err != nil {
		return // the next one tries again
	}
}
