package qemu

import (
	"context"
	"net"
	"sync"

	"github.com/sbx-vm/sbx/qmp"
)

// sshPort is the host's side of the virtio-serial port. QEMU serves one stream at
// a time on its socket. A stream says nothing of the guest process at its other
// end: when that one closes the port and another opens it, the same stream goes
// on, in the middle of a dead conversation. QEMU reports the closing
// (VSERPORT_CHANGE), and the stream is ended with it.
type sshPort struct {
	path string

	mu   sync.Mutex
	conn net.Conn
}

// DialSSH opens a stream to the guest's SSH port and ends the one before. It does
// not wait for the guest: what is sent before the guest opens the port is kept for it. The
// stream ends when the guest closes the port; dial again then.
func (p *Process) DialSSH(ctx context.Context) (net.Conn, error) {
	p.ssh.hangUp()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p.ssh.path)
	if err != nil {
		return nil, err
	}
	p.ssh.mu.Lock()
	defer p.ssh.mu.Unlock()
	p.ssh.conn = conn
	return conn, nil
}

func (s *sshPort) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// watchSSH ends with the monitor's connection, and that with QEMU.
func (p *Process) watchSSH() error {
	events, err := p.QMP.Events(context.Background())
	if err != nil {
		return err
	}
	go func() {
		for e := range events {
			if portClosed(e) {
				p.ssh.hangUp()
			}
		}
		p.ssh.hangUp()
	}()
	return nil
}

// portClosed tells whether the guest closed the port. sshPortID is its device.
func portClosed(e qmp.Event) bool {
	open, isBool := e.Data["open"].(bool)
	return e.Event == "VSERPORT_CHANGE" && e.Data["id"] == sshPortID && isBool && !open
}
