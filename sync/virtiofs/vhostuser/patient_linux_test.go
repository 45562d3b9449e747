package vhostuser

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patientQueue is a testQueue of sixteen entries that nobody waits for, with its interrupt.
func patientQueue(t *testing.T) (*queue, *memory, *event) {
	t.Helper()
	q, m := testQueue(t, func(_, _ [][]byte) int { return 0 })
	q.num, q.patient = 16, true
	call := eventfd(t)
	q.setCall(call)
	return q, m, call
}

// interrupted tells how often the guest was since it asked last.
func interrupted(call *event) uint64 {
	var b [8]byte
	if _, err := unix.Read(call.fd, b[:]); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}

func TestPatientRun(t *testing.T) {
	t.Parallel()
	q, m, call := patientQueue(t)
	ring, err := newRing(m, q.addr, q.num, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	run, err := newRun(q, ring)
	if err != nil {
		t.Fatal(err)
	}
	defer run.kick.close()
	q.setRun(run)
	kickAt := half(m.regions[0].data[testUsed:], 4+8*16)
	for calm, want := range map[bool]uint16{true: 0, false: 3} {
		if run.wantKick(calm); *kickAt != want {
			t.Errorf("calm %v: the kick is asked for at entry %d, want %d", calm, *kickAt, want)
		}
	}
	for i, want := range []uint64{0, 0, 0, 1, 0} {
		q.answer(run, 0, 0)
		if n := interrupted(call); n != want {
			t.Errorf("%d interrupts after answer %d, want %d", n, i+1, want)
		}
		*half(m.regions[0].data[testAvail:], 4+2*16) = ring.signalled
	}
	for _, want := range []uint64{1, 0} {
		run.interruptLate()
		if n := interrupted(call); n != want {
			t.Errorf("%d late interrupts, want %d", n, want)
		}
	}
	q.setRun(nil)
	q.close()
}

// TestPatientRing: a guest that kicks only when it was asked to has all its requests back in the end, and is told of them.
func TestPatientRing(t *testing.T) {
	t.Parallel()
	q, m, call := patientQueue(t)
	mem := m.regions[0].data
	avail, kickAt, callAt := word(mem[testAvail:]), half(mem[testUsed:], 4+8*16), half(mem[testAvail:], 4+2*16)
	if err := q.start(m, true); err != nil {
		t.Fatal(err)
	}
	locked := func(f func()) { // for the race detector's sake: a guest has no lock
		q.mu.Lock()
		defer q.mu.Unlock()
		f()
	}
	var told uint16
	hear := func() bool {
		if interrupted(call) > 0 {
			told = used(m)
			locked(func() { *callAt = told })
		}
		return told == uint16(atomic.LoadUint32(avail)>>16)
	}
	for range 500 {
		hear()
		before := uint16(atomic.LoadUint32(avail) >> 16)
		if before-told >= q.num { // the ring is full
			eventually(t, "the guest is not told that there is room", func() bool { hear(); return before-told < q.num })
		}
		atomic.AddUint32(avail, 1<<16)
		locked(func() {
			if *kickAt == before { // VIRTIO 1.2, 2.7.10, for one entry
				q.kick.add()
			}
		})
		if rand.IntN(8) == 0 {
			time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		}
	}
	eventually(t, "the guest is not told of all", hear)
	q.close()
}
