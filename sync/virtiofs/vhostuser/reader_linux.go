package vhostuser

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// run is one time between a ring's start and its stop.
//
// It has one reader, which waits for the guest's kick in a system call of its own and serves
// requests by itself: to wake another thread costs more than most of them take. Those that have
// a crowd behind them, and those that may take long, have a goroutine each. A request that
// holds the reader up nevertheless makes the watchdog begin another reader.
type run struct {
	ring    *ring
	began   time.Time
	kick    *doorbell // the guest's kicks, and ours: the run's own descriptor of the same counter
	stopped bool
	slots   chan struct{} // requests in flight, those of readers too
	reader  chan struct{} // closed when the last reader ended
	busy    atomic.Int64  // since when the reader serves a request itself, or rests, as [run.now] tells; 0: it does not
	served  atomic.Int64  // requests that readers served themselves
	calm    atomic.Bool   // the guest has asked for nothing since a while
	asleep  atomic.Bool   // the watchdog waits for rouse
	rouse   chan struct{}
}

func newRun(r *ring, kick *event) (*run, error) {
	own, err := kick.dup()
	if err != nil {
		return nil, err
	}
	return &run{
		ring: r, began: time.Now(), kick: &doorbell{event: own},
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
	for {
		deposed, err := q.serve(r)
		if deposed {
			return
		}
		r.slots <- struct{}{}
		if !r.itself(q.rest) {
			return
		}
		if err == nil {
			err = r.kick.wait(&r.calm)
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
		r.slots <- struct{}{}
		head, c, behind, err := q.next(r)
		if c == nil {
			<-r.slots
			return false, err
		}
		if behind >= crowd || q.slow != nil && q.slow(c.in) {
			r.ring.mem.hold()
			go func() {
				defer func() { <-r.slots }()
				defer r.ring.mem.release()
				q.answer(r, head, q.handle(c.in, c.out))
				q.chains.put(c)
				q.rest() // the reader's may have been before
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

// itself has the reader do what may hold it up, in a slot that it gives back, and tells whether it is the reader still.
func (r *run) itself(f func()) bool {
	defer func() { <-r.slots }()
	since := r.now()
	r.busy.Store(since)
	if r.asleep.Load() && r.asleep.CompareAndSwap(true, false) {
		select {
		case r.rouse <- struct{}{}:
		default: // it was roused before and did not look yet
		}
	}
	f()
	return r.busy.CompareAndSwap(since, 0)
}

// next takes one chain off the ring, nil when there is none, and tells how many more there are.
func (q *queue) next(r *run) (head uint16, c *chain, behind int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !r.stopped {
		head, ok, err := r.ring.pop()
		if err != nil {
			return 0, nil, 0, err
		}
		if ok {
			c := q.chains.take()
			if err := c.parse(r.ring.mem, r.ring.desc, head); err != nil {
				return 0, nil, 0, err
			}
			return head, c, r.ring.waiting(), nil
		}
		if !r.ring.wantKick() {
			return 0, nil, 0, nil
		}
	}
	return 0, nil, 0, errStopped
}

var errStopped = errors.New("the ring was stopped")

// Times of the watchdog.
const (
	holdUp    = 20 * time.Millisecond // a reader that serves one request for so long has another take over
	sleepsFor = 5                     // looks without a request after which the watchdog sleeps
)

// watch begins another reader where a request holds one up, until the run ends: the guest's other requests
// must not wait for it. It sleeps while the guest asks for nothing.
func (q *queue) watch(r *run) {
	var last, quiet int64
	pause := time.NewTimer(holdUp)
	defer pause.Stop()
	for {
		select {
		case <-r.reader:
			return
		case <-pause.C:
		}
		since := r.busy.Load()
		if since != 0 && r.now()-since > int64(holdUp) && q.depose(r, since) {
			go q.read(r)
		}
		served := r.served.Load()
		if quiet++; served != last || since != 0 {
			last, quiet = served, 0
		}
		if quiet == 1 {
			r.calm.Store(true)
			r.kick.ring()
		}
		if quiet > sleepsFor {
			if !r.sleep(last) {
				return
			}
			quiet = 0
		}
		pause.Reset(holdUp)
	}
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

// depose takes the ring from a reader that is busy since then. The memory is held for the next one.
func (q *queue) depose(r *run, since int64) bool {
	r.ring.mem.hold()
	if r.busy.CompareAndSwap(since, 0) {
		return true
	}
	r.ring.mem.release()
	return false
}

// now is the time since the run began, in nanoseconds; never 0.
func (r *run) now() int64 { return int64(time.Since(r.began)) | 1 }

// doorbell is an event that may be rung while who waits for it closes it.
type doorbell struct {
	mu     sync.Mutex
	*event // nil when it is closed
}

func (d *doorbell) ring() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event != nil {
		d.add()
	}
}

// close is for the reader, which alone waits.
func (d *doorbell) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.event.close()
	d.event = nil
}

// wait waits for a ring, and takes it. While the guest is not calm it does so without a word to Go's scheduler: a guest that
// works makes its next request a moment after an answer. To tell the scheduler of a wait that short costs more than the
// wait: its monitor wakes for it, takes the processor away and gives it to another thread, and one must be found again.
// Nor has the wait an end, which a timer would be set for each time: the watchdog rings when the guest has become calm. A
// garbage collection need not wait for that: the signal that it sends to who does not yield ends the call.
func (d *doorbell) wait(calm *atomic.Bool) error {
	fds := [1]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	for fds[0].Revents == 0 {
		if !calm.Load() {
			_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), uintptr(len(fds)), 0, 0, 0, 0)
			if errno == unix.EINTR {
				runtime.Gosched() // the scheduler's signal: nothing else here looks whether we are to yield
			}
		} else if _, err := unix.Poll(fds[:], -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a kick: %w", err)
		}
	}
	if fds[0].Revents&^unix.POLLIN != 0 {
		return errors.New("kick: the descriptor is no event counter")
	}
	return d.take()
}
