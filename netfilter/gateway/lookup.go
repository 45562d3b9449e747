package gateway

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

var errBusy = errors.New("too many questions at once")

// lookups asks the host's resolver whether names exist, for answers to the guest.
// Equal questions share one lookup, all together are bounded in number and rate, and a
// name that was just found is not asked again. Only allowed names come here.
type lookups struct {
	mu      *sync.Mutex
	running map[string][]func(error)
	waiting int
	found   map[string]time.Time
	rate    *rate.Limiter
}

func newLookups() lookups {
	return lookups{
		mu: new(sync.Mutex), running: make(map[string][]func(error)), found: make(map[string]time.Time),
		rate: rate.NewLimiter(lookupRate, lookupBurst),
	}
}

// find calls done once: at once if it is known what to say, else from a goroutine.
// The error is resolve's or errBusy.
func (l *lookups) find(g *Gateway, name string, done func(error)) {
	start, err, now := l.join(name, done)
	if now {
		done(err)
	}
	if start && !g.work.run(func() { g.lookup(name) }) {
		l.finish(name, errBusy)
	}
}

// join enters a question. now says that err is the answer already; start that
// the caller has to start the lookup.
func (l *lookups) join(name string, done func(error)) (start bool, err error, now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	if until, ok := l.found[name]; ok && at.Before(until) {
		return false, nil, true
	}
	waiters, running := l.running[name]
	if l.waiting >= maxLookups || !running && !l.rate.AllowN(at, 1) {
		return false, errBusy, true
	}
	l.waiting++
	l.running[name] = append(waiters, done)
	return !running, nil, false
}

func (g *Gateway) lookup(name string) {
	err := errBusy
	defer func() { g.lookups.finish(name, err) }()
	defer g.recoverPanic("lookup")
	target := g.decideName(name).Target
	_, err = g.resolve(g.ctx, name, target)
	if errors.Is(err, errNoName) && g.proxied(target, name, 443) {
		err = nil // the proxy may know it
	}
}

// finish tells all who wait for the name.
func (l *lookups) finish(name string, err error) {
	l.mu.Lock()
	waiters := l.running[name]
	delete(l.running, name)
	l.waiting -= len(waiters)
	if err == nil {
		l.remember(name, time.Now())
	}
	l.mu.Unlock()
	for _, done := range waiters {
		done(err)
	}
}

// remember keeps a found name for a moment. The caller holds the lock.
func (l *lookups) remember(name string, now time.Time) {
	if len(l.found) >= maxDenials {
		for old, until := range l.found {
			if now.After(until) {
				delete(l.found, old)
			}
		}
	}
	if len(l.found) < 4*maxDenials {
		l.found[name] = now.Add(existsFor)
	}
}
