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
		log: slog.New(slog.DiscardHandler), handle: handle, reader: newReader(func() {}), num: 4, enabled: true,
		addr: ringAddr{desc: user + testDesc, avail: user + testAvail, used: user + testUsed},
	}
	newKick(t, q)
	t.Cleanup(func() { q.reader.close() })
	return q, m
}

func newKick(t *testing.T, q *queue) {
	t.Helper()
	q.setKick(eventfd(t))
}

func eventfd(t *testing.T) *event {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEvent(fd)
	if err != nil {
		t.Fatal(err)
	}
	return e
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

// offer makes the only request available once more and kicks.
func offer(q *queue, m *memory, times int) {
	avail := word(m.regions[0].data[testAvail:])
	atomic.StoreUint32(avail, atomic.LoadUint32(avail)+uint32(times)<<16)
	q.kick.add()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal(what)
		}
	}
}

// TestFlushAfterRequests: what waits is written down soon after a request, also after one that ends when all sleep.
func TestFlushAfterRequests(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	var handled, flushed atomic.Int64
	q, m := testQueue(t, func(_, _ [][]byte) int {
		if handled.Load() == 1 {
			<-leave
		}
		handled.Add(1)
		return 0
	})
	q.slow = func([][]byte, bool) bool { return handled.Load() == 1 }
	q.reader.flush = func() { flushed.Store(handled.Load()) }
	if err := q.start(m, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no flush after the first", func() bool { return flushed.Load() == 1 })
	offer(q, m, 1)
	time.Sleep(2 * (sleepsFor + 2) * holdUp) // all sleep
	close(leave)
	eventually(t, "no flush after the last", func() bool { return flushed.Load() == 2 })
	q.close()
}

// TestFlushThatHangs: a disk that does not answer keeps nobody from looking after the readers.
func TestFlushThatHangs(t *testing.T) {
	t.Parallel()
	leave, entered := make(chan struct{}), make(chan struct{}, 1)
	var handled atomic.Int64
	q, m := testQueue(t, func(_, _ [][]byte) int {
		if handled.Add(1) == 2 {
			<-leave
		}
		return 0
	})
	q.reader.flush = func() {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-leave
	}
	if err := q.start(m, false); err != nil {
		t.Fatal(err)
	}
	<-entered
	offer(q, m, 1)
	eventually(t, "no second request", func() bool { return handled.Load() == 2 })
	offer(q, m, 1)
	eventually(t, "the third request waits for the second", func() bool { return used(m) == 2 })
	close(leave)
	q.close()
}

// TestRingsOfOneReader: a request that hangs in one ring holds up neither another ring nor its stop and new start.
func TestRingsOfOneReader(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	hung, m := testQueue(t, func(_, _ [][]byte) int {
		close(entered)
		<-leave
		return 0
	})
	other, otherMemory := testQueue(t, func(_, _ [][]byte) int { return 0 })
	other.reader = hung.reader
	for _, err := range []error{hung.start(m, false), other.start(otherMemory, false)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	<-entered
	for answers := uint16(1); answers < 4; answers++ {
		eventually(t, "the other ring is not served", func() bool { return used(otherMemory) == answers })
		began := time.Now()
		other.stop()
		if took := time.Since(began); took >= Drain {
			t.Errorf("stopped after %v", took)
		}
		if err := other.start(otherMemory, false); err != nil { // with the same kick
			t.Fatal(err)
		}
		offer(other, otherMemory, 1)
	}
	close(leave)
	eventually(t, "the first ring's request has no answer", func() bool { return used(m) == 1 })
	hung.close()
	other.close()
}

// TestFullRing: a ring whose requests all hang takes no more, holds up no other ring, and goes on when one has ended.
func TestFullRing(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	var entered atomic.Int64
	full, m := testQueue(t, func(_, _ [][]byte) int {
		entered.Add(1)
		<-leave
		return 0
	})
	full.slow = func([][]byte, bool) bool { return true }
	other, otherMemory := testQueue(t, func(_, _ [][]byte) int { return 0 })
	other.reader = full.reader
	if err := full.start(m, false); err != nil {
		t.Fatal(err)
	}
	for i := range int64(maxInFlight) {
		eventually(t, "a request waits for those before", func() bool { return entered.Load() == i+1 })
		offer(full, m, 1)
	}
	if err := other.start(otherMemory, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other ring is not served", func() bool { return used(otherMemory) == 1 })
	began := time.Now()
	other.stop()
	if took := time.Since(began); took >= Drain {
		t.Errorf("stopped after %v", took)
	}
	if n := entered.Load(); n != maxInFlight {
		t.Errorf("%d requests at once", n)
	}
	leave <- struct{}{}
	eventually(t, "the last request is not taken", func() bool { return entered.Load() == maxInFlight+1 })
	close(leave)
	eventually(t, "not all have an answer", func() bool { return used(m) == maxInFlight+1 })
	full.close()
	other.close()
}
