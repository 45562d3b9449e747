package vhostuser

import (
	"io"
	"log/slog"
	"sync"
	"time"
)

// Device is what is served. Save and Load move what the guest relies on through a restart of the machine:
// they are called while no ring runs, Load before any request.
type Device interface {
	Handle(in, out [][]byte) int       // see [Handler]
	Slow(in [][]byte, crowd bool) bool // see [Slow]
	Flush()                            // see [Flush]
	Save(w io.Writer) error
	Load(r io.Reader) error
}

// Handler serves one request. in is what the guest sent, out where the answer goes; both
// may lie in the guest's memory, which the guest can change at any time. It returns the
// number of bytes written to out, from its beginning. It is called from many goroutines.
type Handler func(in, out [][]byte) int

// Slow tells of a request that another thread is worth to be woken for, by what the guest sent and may still change: a hint.
// crowd tells that many wait behind it, which would be served at the same time then.
type Slow func(in [][]byte, crowd bool) bool

// Flush is called a moment after requests were served, while others may be, from a goroutine of its own: for what may wait
// so long, and costs less when it is done for many requests at once.
type Flush func()

// Drain is how long a stopping ring waits for requests in flight. QEMU, and with it
// the guest's reset, waits as long; requests that take longer (a host's file system
// that hangs) are abandoned: their answers go nowhere.
const Drain = 5 * time.Second

// maxInFlight requests of one queue are served at once.
const maxInFlight = 64

// queue is one virtqueue: what QEMU said of it and, while it runs, its run.
type queue struct {
	log    *slog.Logger
	handle Handler
	slow   Slow
	reader *reader
	chains chains
	// patient: nobody waits for these requests. They are served and handed back many at once, or when the guest is calm:
	// a kick, and an interrupt, costs the guest more than to serve one.
	patient bool

	// Set by the session, between runs.
	num     uint16
	base    uint16
	addr    ringAddr
	kick    *event
	call    *event
	enabled bool

	mu     sync.Mutex // guards run and the ring within, and call
	run    *run
	failed bool // the guest broke the ring; it stays stopped until QEMU stops it
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
	run, err := newRun(q, r)
	if err != nil {
		return err
	}
	q.setRun(run)
	if err := q.reader.add(run); err != nil {
		q.setRun(nil)
		run.kick.close()
		return err
	}
	return nil
}

func (q *queue) setRun(r *run) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.run = r
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
	q.mu.Lock()
	run.stopped = true
	q.mu.Unlock()
	q.reader.bell.ring()
	if !run.drain() {
		q.log.Warn("requests did not end, their answers are dropped", "waited", Drain)
	}
	run.interruptLate()
	q.mu.Lock()
	q.base = run.ring.nextAvail
	q.run, q.failed = nil, false
	q.mu.Unlock()
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

// answer gives a chain back unless the ring was stopped and given up meanwhile.
func (q *queue) answer(r *run, head uint16, written int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run != r {
		return
	}
	r.ring.push(head, uint32(written))
	if r.owed++; r.owed >= r.batch() {
		r.interrupt()
	}
}

// setCall replaces the interrupt, nil for none.
func (q *queue) setCall(e *event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.call.close()
	q.call = e
}

// setKick replaces the notifier of a stopped queue.
func (q *queue) setKick(e *event) {
	q.kick.close()
	q.kick = e
}

func (q *queue) close() {
	q.stop()
	q.setKick(nil)
	q.setCall(nil)
}
