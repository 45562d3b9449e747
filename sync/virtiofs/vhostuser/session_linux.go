package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
)

const (
	featureIndirect = 1 << 28 // VIRTIO_RING_F_INDIRECT_DESC
	featureEventIdx = 1 << 29 // VIRTIO_RING_F_EVENT_IDX
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32
	// featureLog is offered because QEMU saves no machine without it, and refused when it is turned on: a
	// machine is stopped before it is saved, and then there is nothing to log.
	featureLog = 1 << 26 // VHOST_F_LOG_ALL
	features   = featureIndirect | featureEventIdx | featureProtocol | featureVersion1

	protocolMQ          = 1 << 0
	protocolLogShmFD    = 1 << 1 // as featureLog
	protocolReplyAck    = 1 << 3
	protocolReset       = 1 << 13
	protocolDeviceState = 1 << 19
	protocolFeatures    = protocolMQ | protocolLogShmFD | protocolReplyAck | protocolReset | protocolDeviceState

	// maxQueues: the high-priority queue and as many request queues as vCPUs can use.
	maxQueues = 17
)

// session is one connection of QEMU's. One goroutine uses it.
type session struct {
	conn     *net.UnixConn
	log      *slog.Logger
	mem      *memory
	queues   [maxQueues]*queue
	readers  []*reader
	device   Device
	moving   *transfer // nil when no state is on its way
	features uint64
	protocol uint64
}

// Serve answers QEMU until it closes the connection (nil), ctx ends (its cause) or
// QEMU breaks the protocol. It takes conn over, and returns when no request is in
// flight any more, or after [Drain].
func Serve(ctx context.Context, conn *net.UnixConn, device Device, log *slog.Logger) error {
	s := &session{conn: conn, log: log, device: device}
	for i := range s.queues {
		if i != 1 { // the high-priority queue, of forgets, has little to do: it shares the first request queue's
			s.readers = append(s.readers, newReader(device.Flush))
		}
		s.queues[i] = &queue{handle: device.Handle, slow: device.Slow, reader: s.readers[len(s.readers)-1], log: log.With("queue", i), patient: i == 0}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer s.close()
	defer stop()
	for {
		if err := s.step(); err != nil {
			return ending(ctx, err)
		}
	}
}

// ending tells how a session ended: QEMU going away is its right.
func ending(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return nil
	}
	return fmt.Errorf("vhost-user: %w", err)
}

func (s *session) close() {
	s.conn.Close()
	if s.moving != nil {
		<-s.moving.done
	}
	for _, q := range s.queues {
		q.close()
	}
	for _, r := range s.readers {
		r.close()
	}
	s.setMemory(nil)
}

// step serves one message.
func (s *session) step() error {
	m, err := readMessage(s.conn)
	if err != nil {
		return err
	}
	defer m.closeFDs()
	reply, err := s.dispatch(m)
	if reply != nil {
		return writeReply(s.conn, m.request, reply)
	}
	if m.flags&flagNeedReply == 0 || s.protocol&protocolReplyAck == 0 {
		return err // with nobody told of the failure, to go on would be to guess
	}
	var failed uint64
	if err != nil {
		failed = 1
		s.log.Warn("request refused", "error", err)
	}
	return writeReply(s.conn, m.request, u64(failed))
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// dispatch carries a message out. reply is nil for those without an answer of their own.
func (s *session) dispatch(m *message) (reply []byte, err error) {
	switch m.request {
	case reqGetFeatures:
		return u64(features | featureLog), nil
	case reqGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case reqGetQueueNum:
		return u64(maxQueues), nil
	case reqSetFeatures:
		return nil, s.setFeatures(m)
	case reqSetProtocolFeatures:
		s.protocol, err = m.u64()
		s.protocol &= protocolFeatures
		return nil, err
	case reqSetOwner:
		return nil, nil
	case reqResetOwner, reqResetDevice:
		s.reset()
		return nil, nil
	case reqSetMemTable:
		return nil, s.setMemTable(m)
	case reqSetDeviceState:
		return s.beginTransfer(m)
	case reqCheckDeviceState:
		return s.checkTransfer(), nil
	}
	return s.dispatchRing(m)
}

func (s *session) dispatchRing(m *message) (reply []byte, err error) {
	switch m.request {
	case reqSetVringNum, reqSetVringBase, reqSetVringEnable, reqGetVringBase:
		return s.ringState(m)
	case reqSetVringAddr:
		return nil, s.ringAddr(m)
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return nil, s.ringFile(m)
	}
	return nil, fmt.Errorf("request %d is not one of ours", m.request)
}

func (s *session) setFeatures(m *message) error {
	v, err := m.u64()
	if err == nil && v&^features != 0 {
		err = fmt.Errorf("features %#x of %#x", v, uint64(features))
	}
	if err != nil {
		return err
	}
	s.features = v
	return nil
}

// reset stops all rings and forgets what they were, as a reset of the machine does.
func (s *session) reset() {
	for _, q := range s.queues {
		q.stop()
		q.enabled, q.base = false, 0
	}
}

// setMemTable replaces the guest's memory; rings that run are stopped and go on in the new one.
func (s *session) setMemTable(m *message) error {
	infos, err := m.regions()
	if err != nil {
		return err
	}
	mem, err := newMemory(infos, m.fds)
	if err != nil {
		return err
	}
	for _, q := range s.queues {
		q.stop()
	}
	s.setMemory(mem)
	for _, q := range s.queues {
		err = errors.Join(err, s.start(q))
	}
	return err
}

func (s *session) setMemory(mem *memory) {
	if s.mem != nil {
		s.mem.release()
	}
	s.mem = mem
}

func (s *session) start(q *queue) error { return q.start(s.mem, s.features&featureEventIdx != 0) }

func (s *session) queue(index uint32) (*queue, error) {
	if index >= maxQueues {
		return nil, fmt.Errorf("ring %d of %d", index, maxQueues)
	}
	return s.queues[index], nil
}

func (s *session) ringState(m *message) ([]byte, error) {
	index, num, err := m.state()
	if err != nil {
		return nil, err
	}
	q, err := s.queue(index)
	if err != nil {
		return nil, err
	}
	if m.request == reqSetVringEnable {
		return nil, s.enable(q, num != 0)
	}
	q.stop() // none of the others is for a ring that runs
	switch m.request {
	case reqGetVringBase:
		q.setKick(nil) // a ring starts with its next kick descriptor
		reply := binary.NativeEndian.AppendUint32(nil, index)
		return binary.NativeEndian.AppendUint32(reply, uint32(q.base)), nil
	case reqSetVringNum:
		if num == 0 || num > maxQueueSize {
			return nil, fmt.Errorf("ring of %d entries", num)
		}
		q.num = uint16(num)
	case reqSetVringBase:
		if num > 0xffff {
			return nil, fmt.Errorf("ring base %d", num)
		}
		q.base = uint16(num)
	}
	return nil, nil
}

func (s *session) enable(q *queue, on bool) error {
	q.enabled = on
	if !on {
		q.stop()
		return nil
	}
	return s.start(q)
}

func (s *session) ringAddr(m *message) error {
	index, a, err := m.addr()
	if err != nil {
		return err
	}
	q, err := s.queue(index)
	if err != nil {
		return err
	}
	q.stop()
	q.addr = a
	return s.start(q)
}

// ringFile takes a notifier: an index in the low byte, and a bit that says that none comes with it.
func (s *session) ringFile(m *message) error {
	const noFile = 1 << 8
	v, err := m.u64()
	if err != nil {
		return err
	}
	q, err := s.queue(uint32(v & 0xff))
	if err != nil {
		return err
	}
	var notifier *event
	if v&noFile == 0 {
		fd, err := m.takeFD()
		if err != nil {
			return err
		}
		if notifier, err = newEvent(fd); err != nil {
			return err
		}
	}
	return s.useRingFile(q, m.request, notifier)
}

func (s *session) useRingFile(q *queue, request uint32, notifier *event) error {
	switch request {
	case reqSetVringCall:
		q.setCall(notifier)
		return nil
	case reqSetVringKick:
		q.stop()
		if q.setKick(notifier); notifier == nil {
			return errors.New("ring without a notifier: polling is not done here")
		}
		if s.features&featureProtocol == 0 {
			q.enabled = true // without the protocol's features a ring starts enabled
		}
		return s.start(q)
	}
	if notifier != nil {
		notifier.close() // errors are logged, not signalled
	}
	return nil
}
