package vhostuser

import "time"

// Times of the watchdog.
const (
	holdUp    = 20 * time.Millisecond // a reader that is at one request at two looks, so far apart, has another take over
	sleepsFor = 5                     // looks without a request after which the watchdog sleeps
)

// watchdog looks after a reader. It sleeps while the guest asks for nothing.
type watchdog struct {
	r       *reader
	did     int64 // what the reader was at when it was looked at last
	served  int64 // how many requests were served by then
	flushed int64 // and how many when the last flush began
	quiet   int   // looks since the last request
}

// watch runs until the reader's end.
func (w *watchdog) watch() {
	pause := time.NewTimer(holdUp)
	defer pause.Stop()
	for {
		select {
		case <-w.r.ended:
			w.flush(w.r.served.Load())
			return
		case <-pause.C:
		}
		if w.look(); w.quiet > sleepsFor && w.flushed == w.served {
			if !w.r.sleep(w.served) {
				return
			}
			w.quiet = 0
		}
		pause.Reset(holdUp)
	}
}

func (w *watchdog) look() {
	did, served := w.r.did.Load(), w.r.served.Load()
	if did != 0 && did == w.did {
		w.r.depose(did)
	}
	if w.quiet++; served != w.served || did != 0 {
		w.quiet = 0
	}
	w.did, w.served = did, served
	w.flush(served)
	for _, run := range *w.r.runs.Load() {
		run.interruptLate()
	}
	if w.quiet == 1 {
		w.r.calm.Store(true)
		w.r.bell.ring()
	}
}

// flush begins a flush if there were requests since the last one, unless that goes on: not in the watchdog, which must not
// wait for a disk.
func (w *watchdog) flush(served int64) {
	if served == w.flushed || !w.r.flushing.CompareAndSwap(false, true) {
		return
	}
	w.flushed = served
	go func() {
		defer w.r.flushing.Store(false)
		w.r.flush()
	}()
}

// sleep returns when a reader serves a request, or so many are not all any more; false at the reader's end.
func (r *reader) sleep(served int64) bool {
	r.asleep.Store(true)
	if r.did.Load() != 0 || r.served.Load() != served {
		r.asleep.Store(false)
		return true
	}
	select {
	case <-r.rouse:
		return true
	case <-r.ended:
		return false
	}
}

// wake wakes the watchdog if it sleeps.
func (r *reader) wake() {
	if r.asleep.Load() && r.asleep.CompareAndSwap(true, false) {
		select {
		case r.rouse <- struct{}{}:
		default: // it was roused before and did not look yet
		}
	}
}

// depose has another goroutine go on in place of one that is at something still.
func (r *reader) depose(did int64) {
	if r.deposed.Add(1) <= maxInFlight && r.did.CompareAndSwap(did, 0) {
		go r.read()
		return
	}
	r.deposed.Add(-1)
}
