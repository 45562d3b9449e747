package vhostuser

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// event is an eventfd, a counter that one side adds to and the other waits for. It is no os.File, because Go's poller
// would come to know of it: each kick of the guest's and each answer would wake a thread of the poller's, for nobody.
// A nil event is none.
type event struct{ fd int }

// newEvent takes a descriptor over.
func newEvent(fd int) (*event, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &event{fd}, nil
}

// dup makes another descriptor of the same counter, the caller's own.
func (e *event) dup() (*event, error) {
	fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &event{fd}, nil
}

// add wakes who waits. It waits for nothing, so Go's scheduler need not hear of the call.
func (e *event) add() {
	one := [8]byte{1}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(e.fd), uintptr(unsafe.Pointer(&one)), uintptr(len(one)))
}

func (e *event) close() {
	if e != nil {
		unix.Close(e.fd)
	}
}
