package gateway

import (
	"context"
	"sync"
)

// group counts the gateway's goroutines, those that gVisor starts included. Unlike
// a WaitGroup it may be entered while it is waited for, and then refuses.
type group struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{}
}

func (w *group) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.n++
	return true
}

func (w *group) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.closed {
		close(w.idle)
	}
}

// run starts f unless the group is closed.
func (w *group) run(f func()) bool {
	if !w.enter() {
		return false
	}
	go func() {
		defer w.leave()
		f()
	}()
	return true
}

// wait refuses newcomers and waits for those inside.
func (w *group) wait() {
	w.mu.Lock()
	w.closed, w.idle = true, make(chan struct{})
	if w.n == 0 {
		close(w.idle)
	}
	w.mu.Unlock()
	<-w.idle
}

// gauge is a bound on how many of something there are.
type gauge struct {
	mu    sync.Mutex
	limit int
	n     int
}

func (l *gauge) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n >= l.limit {
		return false
	}
	l.n++
	return true
}

func (l *gauge) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
}

// halfOpen is the handshakes that wait for the guest. gVisor would wait two
// minutes for each, whatever its options say; an endpoint that is aborted ends at once.
type halfOpen struct {
	mu    sync.Mutex
	limit int
	list  []*handshake // oldest first
}

type handshake struct{ abort context.CancelFunc }

// add enters a handshake and ends the oldest if there are too many.
func (h *halfOpen) add(hs *handshake) {
	h.mu.Lock()
	h.list = append(h.list, hs)
	var oldest *handshake
	if len(h.list) > h.limit {
		oldest, h.list = h.list[0], h.list[1:]
	}
	h.mu.Unlock()
	if oldest != nil {
		oldest.abort()
	}
}

func (h *halfOpen) remove(hs *handshake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, o := range h.list {
		if o == hs {
			h.list = append(h.list[:i:i], h.list[i+1:]...)
			return
		}
	}
}

func (h *halfOpen) abortAll() {
	h.mu.Lock()
	list := h.list
	h.list = nil
	h.mu.Unlock()
	for _, hs := range list {
		hs.abort()
	}
}
