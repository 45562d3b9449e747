package gateway

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// directWrite is how much one write to the stack takes of a busy server. With 128 KiB the wake-ups cost a tenth more of
// the processor; more than 1 MiB is rarely there.
const directWrite = 1 << 20

// arrived is what waits in a server's socket, as the stack reads it: into the memory that it sends the guest's
// segments from. So a byte is copied once less than through a buffer, and a connection that is quiet holds none.
// One goroutine uses it.
type arrived struct {
	conn syscall.RawConn
	left int // bytes that are there and not read, of the most that one write takes
}

// Len is part of tcpip.Payloader. The stack reads all of it, and would try for ever if there were less.
func (a *arrived) Len() int { return a.left }

// Read does not wait.
func (a *arrived) Read(b []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	n, err := 0, error(nil)
	if raw := a.conn.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b[:min(len(b), a.left)])
		return true
	}); raw != nil {
		err = raw
	}
	if n <= 0 && err == nil {
		err = io.ErrUnexpectedEOF // not io.EOF: see Len
	}
	if err != nil {
		return 0, err
	}
	a.left -= n
	return n, nil
}

// wait returns when there is something to read, and sets left to it but not over most. io.EOF is the server's end.
func (a *arrived) wait(most int) error {
	n, err := 0, error(nil)
	raw := a.conn.Read(func(fd uintptr) (done bool) {
		n, done, err = look(int(fd))
		return done
	})
	if raw != nil {
		return raw
	}
	a.left = min(n, most)
	return err
}

// look tells how many bytes wait, or that nothing comes any more. It is not done when there may be more later.
func look(fd int) (n int, done bool, err error) {
	for n <= 0 && err == nil {
		if n, err = pending(fd); n > 0 || err != nil {
			break
		}
		var one [1]byte // tells an end and a fault from nothing yet; it stays in the socket
		n, _, err = unix.Recvfrom(fd, one[:], unix.MSG_PEEK)
		if errors.Is(err, unix.EAGAIN) {
			return 0, false, nil
		}
		if n == 0 && err == nil {
			err = io.EOF
		}
		n = 0
	}
	return n, true, err
}

// takeAll sends the guest all that a server sends, until its end, io.EOF, or a fault.
func (c guestConn) takeAll(from syscall.RawConn, count *atomic.Int64) error {
	in := &arrived{conn: from}
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		if err := in.wait(c.unit); err != nil {
			return err
		}
		n, err := c.ep.Write(in, tcpip.WriteOptions{})
		count.Add(n)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-writable // or the connection broke, as the next write says
		default:
			return errors.New(err.String())
		}
	}
}
