package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is what is served. Save and Load move what the guest relies on through a restart of the machine:
// they are called while no ring runs, Load before any request.
type Device interface {
	Handle(in, out [][]byte) int // see [Handler]
	Save(w io.Writer) error
	Load(r io.Reader) error
}

// Handler serves one request. in is what the guest sent, out where the answer goes; both
// may lie in the guest's memory, which the guest can change at any time. It returns the
// number of bytes written to out, from its beginning. It is called from many goroutines.
type Handler func(in, out [][]byte) int

// Drain is how long a stopping ring waits for requests in flight. QEMU, and with it
// the guest's reset, waits as long; requests that take longer (a host's file system
// that hangs) are abandoned: their answers go nowhere.
const Drain = 5 * time.Second

// maxInFlight requests of one queue are served at once.
const maxInFlight = 64

// queue is one virtqueue: what QEMU said of it and, while it runs, its reader.
type queue struct {
	log    *slog.Logger
	handle Handler

	// Set by the session, between runs.
	num     uint16
	base    uint16
	addr    ringAddr
	kick    *os.File
	call    *os.File
	enabled bool

	mu     sync.Mutex // guards run and the ring within, and call
	run    *run
	failed bool // the guest broke the ring; it stays stopped until QEMU stops it
}

// run is one time between a ring's start and its stop.
type run struct {
	ring    *ring
	stopped bool
	slots   chan struct{}
	reader  chan struct{} // closed when the reader ended
}

// start begins to serve, when all is there that it takes.
func (q *queue) start(m *memory, eventIdx bool) error {
	if q.run != nil || q.kick == nil || !q.enabled || m == nil || q.num == 0 || q.broken() {
		return nil
	}
	r, err := newRing(m, q.addr, q.num, q.base, eventIdx)
	if err != nil {
		return err
	}
	if err := q.kick.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("kick: %w", err)
	}
	m.hold()
	q.mu.Lock()
	q.run = &run{ring: r, slots: make(chan struct{}, maxInFlight), reader: make(chan struct{})}
	q.mu.Unlock()
	go q.read(q.run, q.kick)
	return nil
}

func (q *queue) broken() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed
}

// stop ends the run and keeps its place. It returns within [Drain].
func (q *queue) stop() {
	run := q.run
	if run == nil {
		return
	}
	_ = q.kick.SetReadDeadline(time.Unix(1, 0)) // fails only for a closed file, whose reader is gone
	q.mu.Lock()
	run.stopped = true
	q.mu.Unlock()
	if !run.drain() {
		q.log.Warn("requests did not end, their answers are dropped", "waited", Drain)
	}
	q.mu.Lock()
	q.base = run.ring.nextAvail
	q.run, q.failed = nil, false
	q.mu.Unlock()
}

// drain waits for the reader and all requests.
func (r *run) drain() bool {
	deadline := time.NewTimer(Drain)
	defer deadline.Stop()
	select {
	case <-r.reader:
	case <-deadline.C:
		return false
	}
	for range maxInFlight {
		select {
		case r.slots <- struct{}{}:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// read serves the ring whenever the guest kicks. The memory is held until it and
// every request that it began are done.
func (q *queue) read(r *run, kick *os.File) {
	defer close(r.reader)
	defer r.ring.mem.release()
	var counter [8]byte
	for {
		if err := q.serve(r); err != nil {
			q.fail(r, err)
			return
		}
		if _, err := kick.Read(counter[:]); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				q.fail(r, fmt.Errorf("kick: %w", err))
			}
			return
		}
	}
}

// fail stops using a ring that the guest broke: only its own share hangs. A run that
// was given up has no say.
func (q *queue) fail(r *run, err error) {
	q.mu.Lock()
	current := q.run == r && !r.stopped
	q.failed = q.failed || current
	q.mu.Unlock()
	if current {
		q.log.Warn("the guest broke its ring; it is served no more until reset", "error", err)
	}
}

// serve begins every request that waits.
func (q *queue) serve(r *run) error {
	for {
		r.slots <- struct{}{}
		head, c, err := q.next(r)
		if c == nil {
			<-r.slots
			return err
		}
		r.ring.mem.hold()
		go func() {
			defer func() { <-r.slots }()
			defer r.ring.mem.release()
			q.answer(r, head, q.handle(c.in, c.out))
		}()
	}
}

// next takes one chain off the ring, nil when there is none.
func (q *queue) next(r *run) (uint16, *chain, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !r.stopped {
		head, ok, err := r.ring.pop()
		if err != nil {
			return 0, nil, err
		}
		if ok {
			c, err := parseChain(r.ring.mem, r.ring.desc, head)
			if err != nil {
				return 0, nil, err
			}
			return head, c, nil
		}
		if !r.ring.wantKick() {
			return 0, nil, nil
		}
	}
	return 0, nil, nil
}

// answer gives a chain back unless the ring was stopped and given up meanwhile.
func (q *queue) answer(r *run, head uint16, written int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run != r {
		return
	}
	if r.ring.push(head, uint32(written)) && q.call != nil {
		one := [8]byte{1}
		_, _ = q.call.Write(one[:]) // a counter that is full interrupts all the same
	}
}

// setCall replaces the interrupt, nil for none.
func (q *queue) setCall(f *os.File) {
	q.mu.Lock()
	old := q.call
	q.call = f
	q.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// setKick replaces the notifier of a stopped queue.
func (q *queue) setKick(f *os.File) {
	if q.kick != nil {
		q.kick.Close()
	}
	q.kick = f
}

func (q *queue) close() {
	q.stop()
	q.setKick(nil)
	q.setCall(nil)
}

// eventFile makes a file of an eventfd that Go's poller can wait for.
func eventFile(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
