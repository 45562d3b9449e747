package vhostuser

import (
	"errors"
	"sync"
	"time"
)

// run is one time between a ring's start and its stop.
type run struct {
	q       *queue
	ring    *ring
	kick    *event         // the guest's: the run's own descriptor of it, which the reader closes
	stopped bool           // guarded by the queue's mu
	owed    uint16         // requests handed back without a thought of an interrupt; guarded by the queue's mu
	left    chan struct{}  // closed when the reader has let go of the run
	slots   chan struct{}  // requests in goroutines of their own
	flight  sync.WaitGroup // all requests
}

func newRun(q *queue, r *ring) (*run, error) {
	kick, err := q.kick.dup()
	if err != nil {
		return nil, err
	}
	return &run{
		q: q, ring: r, kick: kick,
		left: make(chan struct{}), slots: make(chan struct{}, maxInFlight),
	}, nil
}

// drain waits until nobody uses the run.
func (r *run) drain() bool {
	deadline := time.NewTimer(Drain)
	defer deadline.Stop()
	ended := make(chan struct{})
	go func() {
		<-r.left // no request begins after it
		r.flight.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-deadline.C:
		return false
	}
}

// begin holds the guest's memory for a request that was taken off the ring.
func (r *run) begin() {
	r.flight.Add(1)
	r.ring.mem.hold()
}

func (r *run) end() {
	r.ring.mem.release()
	r.flight.Done()
}

// answer serves a request.
func (r *run) answer(head uint16, c *chain) {
	r.q.answer(r, head, r.q.handle(c.in, c.out))
	r.q.chains.put(c)
}

// next takes one chain off the ring, nil when there is none, and tells how many more there are.
func (r *run) next() (head uint16, c *chain, behind int, err error) {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	if r.stopped {
		return 0, nil, 0, errStopped
	}
	if r.full() {
		return 0, nil, 0, nil
	}
	head, ok, err := r.ring.pop()
	if !ok {
		return 0, nil, 0, err
	}
	c = r.q.chains.take()
	if err := c.parse(r.ring.mem, r.ring.desc, head); err != nil {
		return 0, nil, 0, err
	}
	return head, c, r.ring.waiting(), nil
}

// wantKick asks the guest for kicks; calm tells that nobody looks at the ring without one. It tells whether there is something
// to be done first; not in a run that is full, which rings when it has room again.
func (r *run) wantKick(calm bool) (missed bool) {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	after := r.batch() - 1
	if calm {
		after = 0
	}
	return r.stopped || r.ring.wantKick(after) && !r.full()
}

// batch is how many requests are taken off, and handed back, at once.
func (r *run) batch() uint16 {
	if r.q.patient {
		return max(1, r.ring.num/4)
	}
	return 1
}

// interrupt tells the guest of requests that were handed back; the caller holds the queue's mu.
func (r *run) interrupt() {
	r.owed = 0
	if r.ring.due() && r.q.call != nil {
		r.q.call.add()
	}
}

// interruptLate is interrupt for what was handed back so far, if anything was.
func (r *run) interruptLate() {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	if r.q.run == r && r.owed > 0 {
		r.interrupt()
	}
}

// full tells whether no further request may be in flight. The reader takes none then, and looks after other rings.
func (r *run) full() bool { return len(r.slots) == cap(r.slots) }

var errStopped = errors.New("the ring was stopped")
