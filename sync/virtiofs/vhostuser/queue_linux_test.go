package vhostuser

import (
	"encoding/binary"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	testDesc  = 0x100
	testAvail = 0x200
	testUsed  = 0x300
)

// testQueue is a queue of four entries in testMemory, with one request offered.
func testQueue(t *testing.T, handle Handler) (*queue, *memory) {
	t.Helper()
	m := testMemory()
	m.hold() // it is not mapped: never let it reach nobody
	mem := m.regions[0].data
	copy(mem[testDesc:], table(desc{addr: 0x10, len: 8}))
	binary.LittleEndian.PutUint32(mem[testAvail:], 1<<16)
	const user = 0x7000_0000
	q := &queue{
		log: slog.New(slog.DiscardHandler), handle: handle, rest: func() {}, num: 4, enabled: true,
		addr: ringAddr{desc: user + testDesc, avail: user + testAvail, used: user + testUsed},
	}
	newKick(t, q)
	return q, m
}

func newKick(t *testing.T, q *queue) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := newEvent(fd)
	if err != nil {
		t.Fatal(err)
	}
	q.setKick(f)
}

func used(m *memory) uint16 {
	return uint16(atomic.LoadUint32(word(m.regions[0].data[testUsed:])) >> 16)
}

// TestRequestThatHangs: a host's file system that hangs delays a reset by Drain and no
// more, and what comes of the request later hurts nobody.
func TestRequestThatHangs(t *testing.T) {
	t.Parallel()
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	q, m := testQueue(t, func(_, _ [][]byte) int {
		close(entered)
		<-leave
		defer close(left)
		return 0
	})
	if err := q.start(m, false); err != nil {
		t.Fatal(err)
	}
	<-entered
	began := time.Now()
	q.stop()
	if took := time.Since(began); took < Drain || took > 2*Drain {
		t.Errorf("stopped after %v", took)
	}
	if q.base != 1 || used(m) != 0 {
		t.Errorf("stopped at %d, %d handed back", q.base, used(m))
	}
	newKick(t, q)
	if err := q.start(m, false); err != nil {
		t.Fatal(err)
	}
	close(leave)
	<-left
	q.close()
	if used(m) != 0 || q.broken() {
		t.Errorf("the late answer was handed back: %d, broken %v", used(m), q.broken())
	}
}
