package gateway

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
)

// errRevoked ends a connection that the policy stopped allowing.
var errRevoked = errors.New("the policy no longer allows this connection")

// flow is one connection of the guest to a name. Whatever holds a resource of it
// hangs on ctx, so that ending the flow is cancelling it.
type flow struct {
	id       uint64
	name     string
	addr     netip.Addr // instead of a name, where a rule for ranges of addresses allowed it
	port     uint16
	verdict  netfilter.Verdict
	started  time.Time
	up, down atomic.Int64

	intercepted atomic.Bool              // requests are read, also those over TLS
	request     atomic.Pointer[inFlight] // that runs now, nil for none
	peer        atomic.Pointer[peer]     // nil before a server was reached
	budget      atomic.Pointer[budget]   // nil without one

	ctx context.Context
	end context.CancelCauseFunc
}

// host is the name, or the literal address.
func (f *flow) host() string {
	if f.addr.IsValid() {
		return f.addr.String()
	}
	return f.name
}

// flows is the connections that are open.
type flows struct {
	mu      sync.Mutex
	last    uint64
	open    map[*flow]struct{}
	dialing map[string]int // by name
}

// begin enters a connection; false says that there are too many.
func (fs *flows) begin(ctx context.Context, to netfilter.Request, v netfilter.Verdict) (*flow, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.open) >= maxFlows {
		return nil, false
	}
	if fs.open == nil {
		fs.open = make(map[*flow]struct{})
		fs.dialing = make(map[string]int)
	}
	fs.last++
	f := &flow{id: fs.last, name: to.Name, addr: to.Addr, port: to.Port, verdict: v, started: time.Now()}
	f.ctx, f.end = context.WithCancelCause(ctx)
	fs.open[f] = struct{}{}
	return f, true
}

func (fs *flows) finish(f *flow) {
	f.end(context.Canceled)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.open, f)
}

// buffer is the size of a connection's buffers in each direction.
func (fs *flows) buffer() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.open) > wideFlows {
		return narrowBuffer
	}
	return wideBuffer
}

// startDial bounds what waits for one name.
func (fs *flows) startDial(name string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.dialing[name] >= maxDialsPerName {
		return false
	}
	fs.dialing[name]++
	return true
}

func (fs *flows) endDial(name string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.dialing[name]--; fs.dialing[name] <= 0 {
		delete(fs.dialing, name)
	}
}

// revoke ends what p does not allow, and what it allows only if it is looked at
// while it is not. Connections that are being refused with words go on. keep is told by what the others are
// allowed now.
func (fs *flows) revoke(p *netfilter.Policy, keep func(*flow, netfilter.Verdict)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f := range fs.open {
		if !f.verdict.Allow {
			continue
		}
		if v, ok := f.under(p); ok {
			keep(f, v)
		} else {
			f.end(errRevoked)
		}
	}
}

// inFlight is a request on its way, or what became a WebSocket.
type inFlight struct{ method, path string }

// judged is a policy's verdict on the flow, or on a request of it. What the user answered holds for as long as
// no rule covers it.
func (f *flow) judged(p *netfilter.Policy, method, path string) netfilter.Verdict {
	v := p.Decide(netfilter.Request{Name: f.name, Addr: f.addr, Port: f.port, Method: method, Path: path})
	if v.Ask && f.verdict.Allow && f.verdict.Reason == netfilter.ReasonAnswer {
		return f.verdict
	}
	return v
}

// under gives what a policy says to the flow as it is now, and whether it may go on.
func (f *flow) under(p *netfilter.Policy) (netfilter.Verdict, bool) {
	v := f.judged(p, "", "")
	if !v.Allow || f.verdict.Raw && !v.Raw || v.Intercept && !f.intercepted.Load() || v.Target != f.verdict.Target {
		return v, false
	}
	if r := f.request.Load(); r != nil {
		v = f.judged(p, r.method, r.path)
	}
	return v, v.Allow
}

func (fs *flows) endAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f := range fs.open {
		f.end(context.Canceled)
	}
}
