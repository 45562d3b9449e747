package vhostuser

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// ring is a split virtqueue in the guest's memory. Its caller serialises it.
type ring struct {
	mem              *memory
	desc             []byte
	avail, used      []byte // each starts at a multiple of four
	num              uint16
	nextAvail, nUsed uint16
	signalled        uint16 // nUsed when the guest was last interrupted
	eventIdx         bool
	fenceWord        uint32
}

// ringAddr is where QEMU says that the parts of a ring are.
type ringAddr struct{ desc, used, avail uint64 }

// newRing looks the parts up. base is the next available entry.
func newRing(m *memory, a ringAddr, num, base uint16, eventIdx bool) (*ring, error) {
	n := uint64(num)
	if num == 0 || num > maxQueueSize || num&(num-1) != 0 {
		return nil, fmt.Errorf("ring of %d entries", num)
	}
	r := &ring{mem: m, num: num, nextAvail: base, eventIdx: eventIdx}
	var err error
	if r.desc, err = m.user(a.desc, n*descSize); err != nil {
		return nil, err
	}
	if r.avail, err = m.user(a.avail, 6+2*n); err != nil {
		return nil, err
	}
	if r.used, err = m.user(a.used, 6+8*n); err != nil {
		return nil, err
	}
	// VIRTIO asks for 2 and 4; 4 for both lets flags and index be read as one word.
	// Linux places the available ring right behind the descriptors, at a multiple of 16.
	if !aligned(r.avail) || !aligned(r.used) {
		return nil, fmt.Errorf("ring's parts are not aligned: avail %#x, used %#x", a.avail, a.used)
	}
	r.nUsed = uint16(atomic.LoadUint32(word(r.used)) >> 16)
	r.signalled = r.nUsed
	return r, nil
}

func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4 == 0 }

// word is the flags (low half) and the index (high half) that avail and used begin with.
func word(b []byte) *uint32         { return (*uint32)(unsafe.Pointer(unsafe.SliceData(b))) }
func half(b []byte, at int) *uint16 { return (*uint16)(unsafe.Pointer(&b[at])) }

// fence orders what was written before it with what is read after it: the atomic
// exchange is a full barrier on amd64 and, with LSE, on arm64.
func (r *ring) fence() { atomic.AddUint32(&r.fenceWord, 1) }

// pop takes the next head that the guest made available; false when there is none. An
// error is a guest that counts wrongly, whose ring must not be used again.
func (r *ring) pop() (head uint16, ok bool, err error) {
	ready := uint16(atomic.LoadUint32(word(r.avail))>>16) - r.nextAvail
	if ready == 0 {
		return 0, false, nil
	}
	if ready > r.num {
		return 0, false, fmt.Errorf("guest offers %d entries in a ring of %d", ready, r.num)
	}
	head = *half(r.avail, 4+2*int(r.nextAvail%r.num))
	r.nextAvail++
	return head, true, nil
}

// waiting is how many more the guest made available; a guest that counts wrongly is found out by pop.
func (r *ring) waiting() int { return int(uint16(atomic.LoadUint32(word(r.avail))>>16) - r.nextAvail) }

// wantKick asks the guest to notify of the next entry after so many, where it can, and tells whether that came in the meantime.
func (r *ring) wantKick(after uint16) (missed bool) {
	if r.eventIdx {
		*half(r.used, 4+8*int(r.num)) = r.nextAvail + after
	}
	r.fence()
	return r.waiting() > int(after)
}

// push hands a chain back, with the number of bytes written to it.
func (r *ring) push(head uint16, written uint32) {
	at := 4 + 8*int(r.nUsed%r.num)
	*(*uint32)(unsafe.Pointer(&r.used[at])) = uint32(head)
	*(*uint32)(unsafe.Pointer(&r.used[at+4])) = written
	r.nUsed++
	atomic.StoreUint32(word(r.used), uint32(r.nUsed)<<16) // flags 0: we want kicks
}

// due tells whether the guest wants to be interrupted for what was handed back since it was.
func (r *ring) due() (interrupt bool) {
	r.fence()
	if !r.eventIdx {
		return atomic.LoadUint32(word(r.avail))&1 == 0
	}
	event := *half(r.avail, 4+2*int(r.num))
	interrupt = r.nUsed-event-1 < r.nUsed-r.signalled // VIRTIO 1.2, 2.7.10
	if interrupt {
		r.signalled = r.nUsed
	}
	return interrupt
}
