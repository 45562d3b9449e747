package audit

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Bounds of what a flood can cost. A window is short enough that a person who
// follows the log sees a count soon, and long enough that a retry loop is one line.
const (
	defaultWindow = 5 * time.Second
	// maxKeys distinct entries of one kind and verdict are remembered in a window: a flood of one kind, which a
	// guest makes at will, takes no room from what the others tell of it.
	maxKeys    = 256
	maxPending = 4096 // lines waiting for the disk
)

// Options of a log. The zero value is what sbx uses.
type Options struct {
	Sandbox  string        // put into every entry
	MaxBytes int64         // size at which the file is rotated, 8 MiB if 0; one older file is kept
	Window   time.Duration // in which equal entries are merged, 5 s if 0
	Now      func() time.Time
}

// Log appends entries to a file. Its methods are safe for concurrent use and for
// a nil *Log, which keeps nothing.
type Log struct {
	opts Options
	file *rotator
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	mu      sync.Mutex
	seen    map[key]*Entry // what was written in this window; Count holds the repetitions since
	order   []key
	count   map[class]int // of seen
	pending []Entry
	lost    map[string]int64 // by verdict: what found no room
	err     error
	closed  bool
}

// Open opens or creates the log at path, mode 0600. The older file is path + ".1".
// The caller closes it.
func Open(path string, opts Options) (*Log, error) {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = 8 << 20
	}
	if opts.Window <= 0 {
		opts.Window = defaultWindow
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	file, err := openRotator(path, opts.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{
		opts: opts, file: file,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		seen: map[key]*Entry{}, count: map[class]int{}, lost: map[string]int64{},
	}
	go l.run()
	return l, nil
}

// Write takes an entry. It never waits for the disk: the first of equal entries
// is written soon, the others of the same window become one line with a count
// and summed bytes, and what exceeds the bounds becomes a Lost line.
func (l *Log) Write(e Entry) {
	if l == nil {
		return
	}
	e = l.tidy(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	k := e.key()
	if again, ok := l.seen[k]; ok {
		again.merge(e)
		return
	}
	if c := (class{e.Kind, e.Verdict}); l.count[c] < maxKeys && len(l.pending) < maxPending {
		l.count[c]++
	} else {
		l.lost[e.Verdict] += e.times()
		return
	}
	first := e
	first.BytesUp, first.BytesDown, first.DurationMS, first.Count = 0, 0, 0, 0
	l.seen[k], l.order = &first, append(l.order, k)
	l.pending = append(l.pending, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Err gives the first error of writing, if any: a full disk loses lines and
// stops nothing.
func (l *Log) Err() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close writes what is waiting and closes the file.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	already := l.closed
	l.closed = true
	l.mu.Unlock()
	if already {
		return nil
	}
	close(l.quit)
	<-l.done
	return l.Err()
}

// run is the only goroutine that touches the file.
func (l *Log) run() {
	defer close(l.done)
	tick := time.NewTicker(l.opts.Window)
	defer tick.Stop()
	for {
		select {
		case <-l.wake:
			l.flush(false)
		case <-tick.C:
			l.flush(true)
		case <-l.quit:
			l.flush(true)
			l.fail(l.file.Close())
			return
		}
	}
}

// flush writes what is pending; at the end of a window also the counts.
func (l *Log) flush(windowEnds bool) {
	l.mu.Lock()
	lines := l.pending
	l.pending = nil
	if windowEnds {
		lines = append(lines, l.counts()...)
	}
	l.mu.Unlock()
	for _, e := range lines {
		line, err := json.Marshal(e)
		if err == nil {
			err = l.file.writeLine(line)
		}
		l.fail(err)
	}
}

// counts empties the window into lines. The caller holds the lock.
func (l *Log) counts() []Entry {
	var lines []Entry
	for _, k := range l.order {
		if e := l.seen[k]; e.Count > 0 {
			lines = append(lines, *e)
		}
	}
	for _, verdict := range []string{VerdictAllow, VerdictDeny, ""} {
		if n := l.lost[verdict]; n > 0 {
			lines = append(lines, Entry{
				Time: l.opts.Now(), Sandbox: l.opts.Sandbox, Kind: Lost, Verdict: verdict,
				Reason: "too many different entries at once", Count: n,
			})
		}
	}
	clear(l.seen)
	clear(l.count)
	clear(l.lost)
	l.order = nil
	return lines
}

func (l *Log) fail(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}
