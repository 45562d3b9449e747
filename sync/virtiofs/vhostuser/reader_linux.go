package vhostuser

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// reader serves rings, one or a few that are seldom busy at the same time.
//
// It is one goroutine, which waits for the guest's kicks in a system call of its own and serves requests by itself: to wake
// another thread costs more than most of them take. Those that the device calls slow have a goroutine each. One
// that holds the reader up nevertheless makes the watchdog begin another reader, see [watchdog].
type reader struct {
	flush Flush

	mu     sync.Mutex // guards changes of runs
	runs   atomic.Pointer[[]*run]
	bell   *doorbell // nil before the first run
	closed atomic.Bool
	ended  chan struct{} // closed when the last reading goroutine has ended

	did      atomic.Int64 // the number of the request that the reader serves itself; 0: none
	numbers  atomic.Int64 // of requests that it served itself
	served   atomic.Int64 // requests that were served
	deposed  atomic.Int64 // goroutines that were deposed and did not end yet
	flushing atomic.Bool  // a flush is under way
	calm     atomic.Bool  // the guest has asked for nothing since a while
	asleep   atomic.Bool  // the watchdog waits for rouse
	rouse    chan struct{}
}

func newReader(flush Flush) *reader {
	r := &reader{flush: flush, ended: make(chan struct{}), rouse: make(chan struct{}, 1)}
	r.runs.Store(&[]*run{})
	return r
}

// add has a run served, which holds the guest's memory until it is dropped. Like close it is for the session, which does one
// thing at a time.
func (r *reader) add(one *run) error {
	if r.closed.Load() {
		return errors.New("the rings' reader has ended")
	}
	if r.bell == nil {
		bell, err := newDoorbell()
		if err != nil {
			return err
		}
		r.bell = bell
		go r.read()
		go (&watchdog{r: r}).watch()
	}
	if err := r.bell.hang(one.kick); err != nil {
		return err
	}
	one.ring.mem.hold()
	r.change(func(list []*run) []*run {
		if one.q.patient { // after those that somebody waits for
			return append(list, one)
		}
		return append([]*run{one}, list...)
	})
	r.bell.ring()
	return nil
}

func (r *reader) change(f func([]*run) []*run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := f(slices.Clone(*r.runs.Load()))
	r.runs.Store(&list)
}

// drop lets go of a run that was stopped or that the guest broke.
func (r *reader) drop(old *run, why error) {
	if !errors.Is(why, errStopped) {
		old.q.fail(old, why)
	}
	r.change(func(list []*run) []*run { return slices.DeleteFunc(list, func(x *run) bool { return x == old }) })
	r.bell.take(old.kick)
	old.kick.close()
	old.ring.mem.release()
	close(old.left)
}

// close ends the reader, whose runs were stopped. It returns within [Drain].
func (r *reader) close() {
	if r.bell == nil {
		return
	}
	r.closed.Store(true)
	r.bell.ring()
	select {
	case <-r.ended:
	case <-time.After(Drain):
	}
}

// read serves until the reader is closed, or another goroutine has taken over.
func (r *reader) read() {
	for {
		again, mine := r.round()
		if !mine {
			r.deposed.Add(-1)
			return
		}
		if r.closed.Load() {
			r.bell.close()
			close(r.ended)
			return
		}
		if again || r.missed() {
			continue
		}
		if err := r.bell.wait(&r.calm); err != nil {
			r.failed(err)
		}
	}
}

// round begins the requests that wait, some of each ring. again tells whether there may be more, mine whether
// this goroutine is the one that reads still.
func (r *reader) round() (again, mine bool) {
	for _, run := range *r.runs.Load() {
		more, mine := r.serve(run)
		if !mine {
			return false, false
		}
		again = again || more
	}
	return again, true
}

// missed asks the guest for kicks and tells whether there is something to be done first.
func (r *reader) missed() (is bool) {
	for _, run := range *r.runs.Load() {
		is = run.wantKick(r.calm.Load()) || is
	}
	return is
}

// failed drops all runs and ends the reader: it cannot wait for kicks.
func (r *reader) failed(err error) {
	r.closed.Store(true)
	for _, run := range *r.runs.Load() {
		r.drop(run, err)
	}
}

const (
	// crowd is so many requests that it pays to wake other threads for some.
	crowd = 4
	// turn is how many requests of a ring are begun before another ring's, patientTurn of one that nobody waits for.
	turn        = 64
	patientTurn = 8
)

// serve begins requests of a ring; for the results see round.
func (r *reader) serve(run *run) (again, mine bool) {
	for range run.turn() {
		head, c, behind, err := run.next()
		if err != nil {
			r.drop(run, err)
			return false, true
		}
		if c == nil {
			return false, true
		}
		run.begin()
		switch {
		case run.q.slow != nil && run.q.slow(c.in, behind >= crowd):
			r.serveApart(run, head, c)
		case !r.serveItself(run, head, c):
			return false, false
		}
	}
	return true, true
}

func (r *run) turn() int {
	if r.q.patient {
		return patientTurn
	}
	return turn
}

// serveApart serves a request of a run that is not full in a goroutine of its own.
func (r *reader) serveApart(run *run, head uint16, c *chain) {
	run.slots <- struct{}{}
	go func() {
		defer func() {
			full := run.full()
			if <-run.slots; full {
				r.bell.ring()
			}
		}()
		defer run.end()
		run.answer(head, c)
		r.served.Add(1)
		r.wake()
	}()
}

// serveItself serves a request in the reader, and tells whether this goroutine reads still.
func (r *reader) serveItself(run *run, head uint16, c *chain) bool {
	if r.calm.Load() {
		r.calm.Store(false)
	}
	number := r.numbers.Add(1)
	r.did.Store(number)
	r.wake()
	run.answer(head, c)
	r.served.Add(1)
	run.end()
	return r.did.CompareAndSwap(number, 0)
}
