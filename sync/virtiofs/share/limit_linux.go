package share

import (
	"sync"
	"time"
)

// limiter lets through a few events a second and counts the rest: a guest must not be
// able to fill the host's log. Its zero value is ready.
type limiter struct {
	mu      sync.Mutex
	second  time.Time
	count   int
	leftOut int
}

const linesPerSecond = 10

// allow tells whether an event at now may be told of, and how many before it were not.
func (l *limiter) allow(now time.Time) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.second) >= time.Second {
		l.second, l.count = now, 0
	}
	if l.count++; l.count > linesPerSecond {
		l.leftOut++
		return 0, false
	}
	leftOut, l.leftOut = l.leftOut, 0
	return leftOut, true
}
