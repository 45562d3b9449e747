package vhostuser

import (
	"errors"
	"sync/atomic"
	"time"
)

// run is one time between a ring's start and its stop.
//
// It has one reader, which waits for the guest's kick in a system call of its own and serves
// requests by itself: to wake another thread costs more than most of them take. Those that have
// a crowd behind them, and those that may take long, have a goroutine each. A request that
// holds the reader up nevertheless makes the watchdog begin another reader.
type run struct {
	ring    *ring
	kick    *doorbell // the guest's kicks, and ours
	stopped bool
	slots   chan struct{} // each reader's, and each request's that has a goroutine of its own
	reader  chan struct{} // closed when the last reader ended
	busy    atomic.Int64  // the number of what the reader does itself: serve a request, or rest; 0: nothing
	began   atomic.Int64  // how often readers began to do something themselves
	served  atomic.Int64  // requests that were served
	flushes atomic.Bool   // a flush is under way
	calm    atomic.Bool   // the guest has asked for nothing since a while
	asleep  atomic.Bool   // the watchdog waits for rouse
	rouse   chan struct{}
}

func newRun(r *ring, kick *event) (*run, error) {
	bell, err := newDoorbell(kick)
	if err != nil {
		return nil, err
	}
	return &run{
		ring: r, kick: bell,
		slots: make(chan struct{}, maxInFlight), reader: make(chan struct{}), rouse: make(chan struct{}, 1),
	}, nil
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

// read serves the ring whenever the guest kicks, until the ring is stopped or broken, or another
// reader has taken over. The memory is held until it and every request that it began are done.
func (q *queue) read(r *run) {
	defer r.ring.mem.release()
	r.slots <- struct{}{}
	defer func() { <-r.slots }()
	for {
		deposed, err := q.serve(r)
		if deposed {
			return
		}
		if !r.itself(q.rest) {
			return
		}
		if err == nil {
			err = q.waitFor(r)
		}
		if err != nil {
			if !errors.Is(err, errStopped) {
				q.fail(r, err)
			}
			r.kick.close()
			close(r.reader)
			return
		}
	}
}

// waitFor returns when there may be another request, or an error. The guest is not asked for kicks before.
func (q *queue) waitFor(r *run) error {
	q.mu.Lock()
	stopped := r.stopped
	missed := !stopped && r.ring.wantKick()
	q.mu.Unlock()
	switch {
	case stopped:
		return errStopped
	case missed:
		return nil
	}
	return r.kick.wait(&r.calm)
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

// crowd is so many requests that it pays to wake other threads.
const crowd = 4

// serve begins every request that waits. It tells whether another reader took over meanwhile.
func (q *queue) serve(r *run) (deposed bool, err error) {
	for {
		head, c, behind, err := q.next(r)
		if c == nil {
			return false, err
		}
		if behind >= crowd || q.slow != nil && q.slow(c.in) {
			r.slots <- struct{}{}
			r.ring.mem.hold()
			go func() {
				defer func() { <-r.slots }()
				defer r.ring.mem.release()
				q.answer(r, head, q.handle(c.in, c.out))
				q.chains.put(c)
				q.rest() // the reader's may have been before
				r.served.Add(1)
				r.wake()
			}()
			continue
		}
		if !q.serveItself(r, head, c) {
			return true, nil
		}
	}
}

// serveItself serves a request in the reader, and tells whether it is the reader still.
func (q *queue) serveItself(r *run, head uint16, c *chain) bool {
	if r.calm.Load() {
		r.calm.Store(false)
	}
	return r.itself(func() {
		q.answer(r, head, q.handle(c.in, c.out))
		q.chains.put(c)
		r.served.Add(1)
	})
}

// itself has the reader do what may hold it up, and tells whether it is the reader still.
func (r *run) itself(f func()) bool {
	number := r.began.Add(1)
	r.busy.Store(number)
	r.wake()
	f()
	return r.busy.CompareAndSwap(number, 0)
}

// wake wakes the watchdog if it sleeps.
func (r *run) wake() {
	if r.asleep.Load() && r.asleep.CompareAndSwap(true, false) {
		select {
		case r.rouse <- struct{}{}:
		default: // it was roused before and did not look yet
		}
	}
}

// next takes one chain off the ring, nil when there is none, and tells how many more there are.
func (q *queue) next(r *run) (head uint16, c *chain, behind int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.stopped {
		return 0, nil, 0, errStopped
	}
	head, ok, err := r.ring.pop()
	if !ok {
		return 0, nil, 0, err
	}
	c = q.chains.take()
	if err := c.parse(r.ring.mem, r.ring.desc, head); err != nil {
		return 0, nil, 0, err
	}
	return head, c, r.ring.waiting(), nil
}

var errStopped = errors.New("the ring was stopped")

// Times of the watchdog.
const (
	holdUp    = 20 * time.Millisecond // a reader that is at one request at two looks, so far apart, has another take over
	sleepsFor = 5                     // looks without a request after which the watchdog sleeps
)

// watch begins another reader where a request holds one up, until the run ends: the guest's other requests
// must not wait for it. It sleeps while the guest asks for nothing.
func (q *queue) watch(r *run) {
	var last, quiet, flushed, did int64
	pause := time.NewTimer(holdUp)
	defer pause.Stop()
	for {
		select {
		case <-r.reader:
			q.flushSoon(r)
			return
		case <-pause.C:
		}
		busy := r.busy.Load()
		if busy != 0 && busy == did && q.depose(r, busy) {
			go q.read(r)
		}
		did = busy
		served := r.served.Load()
		if served != flushed && q.flushSoon(r) {
			flushed = served
		}
		if quiet++; served != last || busy != 0 {
			last, quiet = served, 0
		}
		if quiet == 1 {
			r.calm.Store(true)
			r.kick.ring()
		}
		if quiet > sleepsFor && flushed == served {
			if !r.sleep(last) {
				return
			}
			quiet = 0
		}
		pause.Reset(holdUp)
	}
}

// flushSoon flushes, unless it is being done: not in the watchdog, which must not wait for a disk.
func (q *queue) flushSoon(r *run) bool {
	if !r.flushes.CompareAndSwap(false, true) {
		return false
	}
	go func() {
		defer r.flushes.Store(false)
		q.flush()
	}()
	return true
}

// sleep returns when a reader serves a request, or has served more than so many; false at the run's end.
func (r *run) sleep(served int64) bool {
	r.asleep.Store(true)
	if r.busy.Load() != 0 || r.served.Load() != served {
		r.asleep.Store(false)
		return true
	}
	select {
	case <-r.rouse:
		return true
	case <-r.reader:
		return false
	}
}

// depose takes the ring from a reader that is at something still. The memory is held for the next one.
func (q *queue) depose(r *run, number int64) bool {
	r.ring.mem.hold()
	if r.busy.CompareAndSwap(number, 0) {
		return true
	}
	r.ring.mem.release()
	return false
}
