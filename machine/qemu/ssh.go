package qemu

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/qmp"
)

// settle is how long the guest's port stays without a host between two streams.
// The guest's process must be scheduled in it, or it takes the new stream for the
// rest of the old one.
const settle = 250 * time.Millisecond

// sshPort is the host's side of the virtio-serial port. QEMU serves one stream at
// a time on its socket. A stream says nothing of the guest process at its other
// end: when that one closes the port and another opens it, the same stream goes
// on, in the middle of a dead conversation. QEMU reports the change
// (VSERPORT_CHANGE), and the stream is ended with it.
type sshPort struct {
	path string

	mu    sync.Mutex
	conn  net.Conn
	open  bool // the guest has the port open, as far as QEMU told
	ended time.Time
}

// DialSSH opens a stream to the guest's SSH port and ends the one before. It does
// not wait for the guest: what is sent before the guest opens the port is kept for
// it. The stream ends, up to a second late, when the guest closes the port; dial
// again then.
func (p *Process) DialSSH(ctx context.Context) (net.Conn, error) {
	p.ssh.hangUp()
	if err := p.ssh.pause(ctx); err != nil {
		return nil, err
	}
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

// pause waits until the last stream's end is settle ago.
func (s *sshPort) pause(ctx context.Context) error {
	s.mu.Lock()
	wait := settle - time.Since(s.ended)
	s.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sshPort) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *sshPort) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn, s.ended = nil, time.Now()
	}
}

// changed takes note of what the guest did. QEMU reports at most one change of a
// port in a second, the last: a second opening means a closing unreported.
func (s *sshPort) changed(open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !open || s.open {
		s.drop()
	}
	s.open = open
}

// watchSSH ends with the monitor's connection, and that with QEMU.
func (p *Process) watchSSH() error {
	events, err := p.QMP.Events(context.Background())
	if err != nil {
		return err
	}
	go func() {
		for e := range events {
			if open, ok := portChange(e); ok {
				p.ssh.changed(open)
			}
		}
		p.ssh.hangUp()
	}()
	return nil
}

// portChange tells whether an event is about the SSH port, and what it says.
func portChange(e qmp.Event) (open, ok bool) {
	if e.Event != "VSERPORT_CHANGE" || e.Data["id"] != sshPortID {
		return false, false
	}
	open, ok = e.Data["open"].(bool)
	return open, ok
}
