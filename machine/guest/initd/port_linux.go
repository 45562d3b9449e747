package initd

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// portConn is a virtio-serial port as a connection. The host's hanging up reads
// as the end of input.
type portConn struct{ *os.File }

type portAddr struct{}

func (portAddr) Network() string { return "virtio-serial" }
func (portAddr) String() string  { return "host" }

func (portConn) LocalAddr() net.Addr  { return portAddr{} }
func (portConn) RemoteAddr() net.Addr { return portAddr{} }

// openPort opens the port and waits until the host is there.
func openPort(ctx context.Context, path string) (net.Conn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	for errors.Is(err, syscall.EBUSY) && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
		f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	for ctx.Err() == nil {
		connected := false
		err := raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
			n, err := unix.Poll(p, 0)
			connected = err == nil && n > 0 && p[0].Revents&unix.POLLHUP == 0
		})
		if err != nil {
			f.Close()
			return nil, err
		}
		if connected {
			return portConn{f}, nil
		}
		// The driver has no event for "the host came": it is looked for, quickly at boot.
		time.Sleep(5 * time.Millisecond)
	}
	f.Close()
	return nil, ctx.Err()
}
