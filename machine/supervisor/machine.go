package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/qmp"
)

// startMachine starts QEMU. The guest runs from then on; its frames wait in the
// socket for the gateway.
func (s *Supervisor) startMachine(ctx context.Context) error {
	s.o.Tell(Message{Phase: PhaseBoot})
	uid := confine.OwnUID(s.files.Disk())
	var share *os.File
	tag := ""
	if s.share != nil {
		share, tag = s.share.conn, boot.ShareTag
	}
	p, err := qemu.Start(ctx, qemu.Config{
		Host: s.host, Self: s.o.Self, UID: uid, GID: uid, SSHSocket: s.files.SSHSocket(), Share: share,
		Machine: qemu.Machine{
			Arch: s.spec.Arch, CPUs: s.spec.Resources.CPUs, Memory: int64(s.spec.Resources.Memory),
			Kernel: s.img.Kernel, Initrd: s.files.Initrd(), Cmdline: []string{"rdinit=" + boot.InitPath},
			Disks: []qemu.Disk{{Serial: boot.RootSerial, Path: s.files.Disk(), Format: "qcow2", Backing: s.img.Root}},
			MAC:   guestMAC(s.spec.Name).String(), Share: tag, SSHPort: boot.SSHPort,
		},
	})
	if err != nil {
		return err
	}
	s.qemu = p
	log, err := openRing(s.files.ConsoleLog(), logLimit)
	if err != nil {
		return err
	}
	s.guest = newGuest(s, newConsole(p.Console, log))
	events, err := p.QMP.Events(context.Background())
	if err != nil {
		return err
	}
	go s.watch(events)
	return s.adopt(p.PID())
}

// watch keeps the state true to what QEMU does by itself: it pauses the guest when
// the host's disk is full, and the guest goes on when there is room again.
func (s *Supervisor) watch(events <-chan qmp.Event) {
	for e := range events {
		switch e.Event {
		case "BLOCK_IO_ERROR":
			if reason, ok := e.Data["reason"].(string); ok {
				s.o.Log.Error("disk", "reason", reason)
			}
			if full, ok := e.Data["nospace"].(bool); ok && full {
				s.setState(machine.Paused, "the host's disk is full: make room, the guest goes on by itself")
				go s.resume()
			}
		case "RESUME":
			s.mu.Lock()
			paused := s.record.State == machine.Paused
			s.mu.Unlock()
			if paused {
				s.setState(machine.Running, "")
			}
		case "GUEST_PANICKED":
			s.o.Log.Error("the guest's kernel panicked")
		}
	}
}

// resume lets the guest try again until QEMU has room. A guest that is still
// without it is paused again at once, by the same event.
func (s *Supervisor) resume() {
	select {
	case <-time.After(5 * time.Second):
	case <-s.qemu.Done():
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.qemu.QMP.Execute(ctx, "cont", nil, nil); err != nil {
		s.o.Log.Warn("let the guest go on", "error", fmt.Sprint(err))
	}
}
