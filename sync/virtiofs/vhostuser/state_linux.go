package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// StateLimit bounds what is read as a device's state, in bytes.
const StateLimit = 256 << 20

// transferPatience is how long a state may take to go through the pipe. QEMU is at the other end and
// waits for nothing else.
const transferPatience = time.Minute

// Directions of a transfer (VHOST_USER_SET_DEVICE_STATE_FD).
const (
	directionSave = 0
	directionLoad = 1
	phaseStopped  = 0
	// noDescriptor in the answer: the pipe that came with the request is used.
	noDescriptor = 1 << 8
)

// transfer is the state on its way. QEMU asks for its result when the pipe has ended.
type transfer struct {
	done chan struct{}
	err  error
}

// beginTransfer takes QEMU's pipe and saves or loads behind QEMU's back: the answer must come before
// the bytes. No ring runs meanwhile.
func (s *session) beginTransfer(m *message) ([]byte, error) {
	if len(m.payload) != 8 {
		return nil, fmt.Errorf("device state: %d bytes", len(m.payload))
	}
	direction, phase := binary.NativeEndian.Uint32(m.payload), binary.NativeEndian.Uint32(m.payload[4:])
	if direction > directionLoad || phase != phaseStopped {
		return nil, fmt.Errorf("device state: direction %d, phase %d", direction, phase)
	}
	for _, q := range s.queues {
		if q.run != nil {
			return nil, errors.New("device state: a ring still runs")
		}
	}
	s.endTransfer() //nolint:errcheck // QEMU gave that one up
	fd, err := m.takeFD()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for a deadline
		unix.Close(fd)
		return nil, fmt.Errorf("device state: %w", err)
	}
	pipe := os.NewFile(uintptr(fd), "state")
	s.moving = &transfer{done: make(chan struct{})}
	go s.moving.run(s.device, pipe, direction)
	return u64(noDescriptor), nil
}

func (t *transfer) run(d Device, pipe *os.File, direction uint32) {
	defer close(t.done)
	defer pipe.Close()
	if err := pipe.SetDeadline(time.Now().Add(transferPatience)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		t.err = err
		return
	}
	if direction == directionSave {
		t.err = d.Save(pipe)
		return
	}
	t.err = d.Load(io.LimitReader(pipe, StateLimit))
}

// endTransfer waits for the transfer and gives its result.
func (s *session) endTransfer() error {
	t := s.moving
	s.moving = nil
	if t == nil {
		return errors.New("device state: none was moved")
	}
	<-t.done
	return t.err
}

// checkTransfer is QEMU's question whether all went well.
func (s *session) checkTransfer() []byte {
	err := s.endTransfer()
	if err == nil {
		return u64(0)
	}
	s.log.Warn("device state", "error", err)
	return u64(1)
}
