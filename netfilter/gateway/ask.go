package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// Bounds of asking: a hostile guest must neither wear the user out nor hold what others need.
const (
	maxQuestions  = 32
	maxHeld       = 64 // connections that wait for an answer
	questionRate  = 1  // new questions a second
	questionBurst = 10
	// refusedFor is how long a name and port that got no, or no answer, is refused without asking again.
	refusedFor = time.Minute
	maxRefused = 1024
)

// ErrNoQuestion says that a question was answered, given up or never asked.
var ErrNoQuestion = errors.New("there is no such question any more")

// Question is a name and port that no rule covers, and that connections of the guest wait for.
type Question struct {
	ID           uint64
	Name         string // canonical
	Port         uint16
	Since, Until time.Time
	Count        int // connections that wait
}

// outcome of a question.
type outcome int

const (
	refused    outcome = iota
	unanswered         // in time, which is no
	granted            // for those that wait
	redecide           // the policy changed: it may know now
)

type question struct {
	Question
	done   chan struct{} // closed when outcome is set
	result outcome
}

type target struct {
	name string
	port uint16
}

// asks are the questions that are open. Its zero value is not ready, see newAsks.
type asks struct {
	mu      *sync.Mutex
	last    uint64
	open    map[target]*question
	refused map[target]time.Time // until when
	held    int
	rate    *rate.Limiter
	names   *rate.Limiter // of names that are given an address without asking whether they exist

	version uint64        // of the questions, for WaitPending
	changed chan struct{} // closed at the next version
}

func newAsks() asks {
	return asks{
		mu: new(sync.Mutex), open: map[target]*question{}, refused: map[target]time.Time{},
		rate: rate.NewLimiter(questionRate, questionBurst), names: rate.NewLimiter(lookupRate, lookupBurst),
		version: 1, changed: make(chan struct{}),
	}
}

// touch tells those who wait. The caller holds the lock.
func (a *asks) touch() {
	a.version++
	close(a.changed)
	a.changed = make(chan struct{})
}

// join enters a connection, nil if it is not to be asked for.
func (a *asks) join(to target, wait time.Duration, now time.Time) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.refused[to]) || a.held >= maxHeld {
		return nil
	}
	q := a.open[to]
	if q == nil {
		if len(a.open) >= maxQuestions || !a.rate.AllowN(now, 1) {
			return nil
		}
		a.last++
		q = &question{Question: Question{ID: a.last, Name: to.name, Port: to.port, Since: now, Until: now.Add(wait)}, done: make(chan struct{})}
		a.open[to] = q
	}
	q.Count++
	a.held++
	a.touch()
	return q
}

// leave takes a connection off; the last one takes the question along.
func (a *asks) leave(q *question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held--
	to := target{q.Name, q.Port}
	if q.Count--; q.Count == 0 && a.open[to] == q {
		delete(a.open, to)
	}
	a.touch()
}

// finish ends a question for all who wait. The caller holds the lock.
func (a *asks) finish(q *question, result outcome, now time.Time) {
	to := target{q.Name, q.Port}
	if a.open[to] != q {
		return
	}
	delete(a.open, to)
	if result == refused || result == unanswered {
		a.remember(to, now)
	}
	q.result = result
	close(q.done)
	a.touch()
}

func (a *asks) remember(to target, now time.Time) {
	if len(a.refused) >= maxRefused {
		for old, until := range a.refused {
			if now.After(until) {
				delete(a.refused, old)
			}
		}
	}
	if len(a.refused) < maxRefused {
		a.refused[to] = now.Add(refusedFor)
	}
}

// expire ends a question that nobody answered in time.
func (a *asks) expire(q *question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finish(q, unanswered, time.Now())
}

// redecide lets all connections that wait ask the policy again, and forgets what was refused.
func (a *asks) redecide() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.refused)
	for _, q := range a.open {
		a.finish(q, redecide, time.Now())
	}
}

func (a *asks) list() ([]Question, uint64, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Question, 0, len(a.open))
	for _, q := range a.open {
		out = append(out, q.Question)
	}
	slices.SortFunc(out, func(x, y Question) int { return int(x.ID) - int(y.ID) })
	return out, a.version, a.changed
}

// Pending gives the open questions, oldest first.
func (g *Gateway) Pending() []Question {
	list, _, _ := g.asks.list()
	return list
}

// WaitPending gives the open questions as soon as they differ from those of seen, which is what an
// earlier call gave; 0 returns at once. The error is ctx's, or [context.Canceled] when the gateway ended.
func (g *Gateway) WaitPending(ctx context.Context, seen uint64) ([]Question, uint64, error) {
	for {
		list, version, changed := g.asks.list()
		if version != seen {
			return list, version, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, seen, ctx.Err()
		case <-g.ctx.Done():
			return nil, seen, context.Canceled
		}
	}
}

// Answer decides for the connections that wait for a question, and for no others: a lasting answer is a
// policy, see SetPolicy.
func (g *Gateway) Answer(id uint64, allow bool) error {
	g.asks.mu.Lock()
	defer g.asks.mu.Unlock()
	for _, q := range g.asks.open {
		if q.ID != id {
			continue
		}
		result := refused
		if allow {
			result = granted
		}
		g.asks.finish(q, result, time.Now())
		return nil
	}
	return ErrNoQuestion
}

// ask holds a connection that no rule covers until the user, the policy or the clock has decided.
func (g *Gateway) ask(asked netfilter.Request, verdict netfilter.Verdict) netfilter.Verdict {
	for verdict.Ask {
		wait := g.policy.Load().AskFor()
		q := g.asks.join(target{asked.Name, asked.Port}, wait, time.Now())
		if q == nil {
			return verdict
		}
		if now := g.policy.Load().Decide(asked); !now.Ask { // SetPolicy came before join, and could not see it
			g.asks.leave(q)
			return now
		}
		g.await(q)
		if q.result == redecide && g.ctx.Err() == nil {
			verdict = g.policy.Load().Decide(asked)
			continue
		}
		e := audit.Entry{Kind: audit.Ask, Name: asked.Name, Port: asked.Port, Proto: "tcp"}
		if q.result != granted || g.ctx.Err() != nil {
			e.Reason = netfilter.ReasonAnswer
			if q.result == unanswered {
				e.Reason = netfilter.ReasonNoAnswer
			}
			g.denied(e)
			verdict.Reason = e.Reason
			return verdict
		}
		e.Reason = netfilter.ReasonAnswer
		g.allowed(e)
		return g.policy.Load().Granted(asked.Name, asked.Port)
	}
	return verdict
}

// await returns when the question has its result, the connection leaves it then.
func (g *Gateway) await(q *question) {
	defer g.asks.leave(q)
	timer := time.NewTimer(time.Until(q.Until))
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
		g.asks.expire(q)
		<-q.done
	case <-g.ctx.Done():
		g.asks.expire(q)
	}
}

// decideFlow is the verdict of the policy in force on a flow, or on a request of it. A policy that came meanwhile
// has set the flow's budget already, and is not to be overruled.
func (g *Gateway) decideFlow(f *flow, method, path string) netfilter.Verdict {
	for {
		p := g.policy.Load()
		v := f.judged(p, method, path)
		g.setBudget(f, v)
		if g.policy.Load() == p {
			return v
		}
	}
}

// setBudget makes what follows count under the rule that allowed it.
func (g *Gateway) setBudget(f *flow, v netfilter.Verdict) {
	if !v.Allow || v.MaxUpload == 0 || v.Rule == nil {
		f.budget.Store(nil)
		return
	}
	f.budget.Store(&budget{g.budgets.of(v.Rule.Pattern, f.host()), v.MaxUpload})
}
