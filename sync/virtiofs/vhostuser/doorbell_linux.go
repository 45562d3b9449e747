package vhostuser

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// doorbell is what one reader at a time waits at: for the kicks of guests and for a ring of ours. All are edge-triggered, so
// that a wait is one system call and the counters need not be emptied: they have room for more than a guest can kick.
type doorbell struct {
	mu    sync.Mutex
	bell  *event // nil when it is closed
	epoll int
	rung  [4]unix.EpollEvent // of who waits; which they are nobody asks
}

func newDoorbell() (*doorbell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	d := &doorbell{bell: &event{fd}, epoll: epoll}
	if err := d.hang(d.bell); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// hang adds a kick, which stays the caller's.
func (d *doorbell) hang(kick *event) error {
	if err := unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, kick.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}); err != nil {
		return fmt.Errorf("wait for kicks: %w", err)
	}
	return nil
}

// take takes a kick off. To close it would not, while QEMU has it open.
func (d *doorbell) take(kick *event) {
	_ = unix.EpollCtl(d.epoll, unix.EPOLL_CTL_DEL, kick.fd, nil) // fails only for what does not hang there
}

func (d *doorbell) ring() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bell != nil {
		d.bell.add()
	}
}

// close is for the reader, which alone waits.
func (d *doorbell) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bell.close()
	d.bell = nil
	unix.Close(d.epoll)
}

// wait waits for a kick or a ring. While the guest is not calm it does so without a word to Go's scheduler: a guest that
// works makes its next request a moment after an answer. To tell the scheduler of a wait that short costs more than the
// wait: its monitor wakes for it, takes the processor away and gives it to another thread, and one must be found again.
// Nor has the wait an end, which a timer would be set for each time: the watchdog rings when the guest has become calm. A
// garbage collection need not wait for that: the signal that it sends to who does not yield ends the call.
func (d *doorbell) wait(calm *atomic.Bool) error {
	for {
		n, err := d.waitOnce(calm.Load())
		switch {
		case err == nil && n > 0:
			return nil
		case errors.Is(err, unix.EINTR):
			runtime.Gosched() // the scheduler's signal: nothing else here looks whether we are to yield
		case err != nil:
			return fmt.Errorf("wait for a kick: %w", err)
		}
	}
}

func (d *doorbell) waitOnce(calm bool) (n int, err error) {
	if calm {
		return unix.EpollWait(d.epoll, d.rung[:], -1)
	}
	got, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(d.epoll), uintptr(unsafe.Pointer(&d.rung)), uintptr(len(d.rung)), forEver, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// forEver is -1 as the kernel reads it.
const forEver = ^uintptr(0)
