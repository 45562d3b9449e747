package gateway

import (
	"errors"
	"net/netip"
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
	found   map[string]found
	rate    *rate.Limiter
}

// found is what the resolver said of a name, unchecked.
type found struct {
	at     time.Time
	answer []netip.Addr // nil where a proxy knows the name
}

func newLookups() lookups {
	return lookups{
		mu: new(sync.Mutex), running: make(map[string][]func(error)), found: make(map[string]found),
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
	if f, ok := l.found[name]; ok && at.Sub(f.at) < existsFor {
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
		g.lookups.remember(name, nil)
	}
}

// finish tells all who wait for the name.
func (l *lookups) finish(name string, err error) {
	l.mu.Lock()
	waiters := l.running[name]
	delete(l.running, name)
	l.waiting -= len(waiters)
	l.mu.Unlock()
	for _, done := range waiters {
		done(err)
	}
}

// recent is an answer of the last moment, if there is one.
func (l *lookups) recent(name string, moment time.Duration) ([]netip.Addr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.found[name]
	return f.answer, len(f.answer) > 0 && time.Since(f.at) < moment
}

// remember keeps a found name for a moment. The answer is not changed by anybody from here on.
func (l *lookups) remember(name string, answer []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.found) >= maxDenials {
		for old, f := range l.found {
			if time.Since(f.at) > existsFor {
				delete(l.found, old)
			}
		}
	}
	if len(l.found) < 4*maxDenials {
		l.found[name] = found{time.Now(), answer}
	}
}

// forget makes the next connection ask anew.
func (l *lookups) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.found, name)
}
