package gateway

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Flow is a connection that is open now.
type Flow struct {
	ID                 uint64
	Name               string // empty for a literal address
	Addr               string // that was dialled, empty before
	Port               uint16
	Proto              string
	Rule               string
	Started            time.Time
	BytesUp, BytesDown int64
}

// peer is what was reached.
type peer struct{ addr, proto string }

// Live gives the connections that are open, oldest first.
func (g *Gateway) Live() []Flow {
	g.flows.mu.Lock()
	defer g.flows.mu.Unlock()
	out := make([]Flow, 0, len(g.flows.open))
	for f := range g.flows.open {
		l := Flow{ID: f.id, Name: f.name, Port: f.port, Started: f.started, BytesUp: f.up.Load(), BytesDown: f.down.Load()}
		if p := f.peer.Load(); p != nil {
			l.Addr, l.Proto = p.addr, p.proto
		}
		if f.verdict.Rule != nil {
			l.Rule = f.verdict.Rule.Pattern
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Flow) int { return int(a.ID) - int(b.ID) })
	return out
}

// errBudget ends a connection over which more went up than its rule allows.
var errBudget = errors.New("the rule's max_upload is used up")

// maxBudgets bounds the counters: a wildcard with a budget has any number of names.
const maxBudgets = 4096

// budgets count what went up under a rule to a name or literal address, for as long as the gateway lives.
type budgets struct {
	mu   sync.Mutex
	used map[budgetKey]*atomic.Int64
}

type budgetKey struct{ rule, host string }

// of gives the counter, nil when there are too many.
func (b *budgets) of(rule, host string) *atomic.Int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used == nil {
		b.used = map[budgetKey]*atomic.Int64{}
	}
	key := budgetKey{rule, host}
	if b.used[key] == nil {
		if len(b.used) >= maxBudgets {
			return nil
		}
		b.used[key] = new(atomic.Int64)
	}
	return b.used[key]
}

// budget is what a flow may still send, now.
type budget struct {
	used  *atomic.Int64
	limit int64
}

// metered is a connection to a server whose flow may have a budget.
type metered struct {
	upstream
	f *flow
}

// Write sends what the budget has room for as a whole, else nothing, and ends the flow.
func (m metered) Write(b []byte) (int, error) {
	if limit := m.f.budget.Load(); limit != nil && !limit.take(int64(len(b))) {
		m.f.end(errBudget)
		return 0, errBudget
	}
	return m.upstream.Write(b)
}

// take counts n bytes if there is room for them. What is refused is not counted: a raised limit is one that can
// be used, however often a guest tried before.
func (b *budget) take(n int64) bool {
	if b.used == nil {
		return false
	}
	for {
		used := b.used.Load()
		if used+n > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}
