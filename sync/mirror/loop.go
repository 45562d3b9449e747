//go:build unix

package mirror

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// loop waits for something to change and has the engine see to it.
type loop struct {
	s     *Session
	e     *engine
	guest *remote
	watch *disk.Watch

	host, there map[string]bool // dirty paths
	wake        time.Time       // look again then; zero: not before something changes
	tries       int             // rounds in a row that left something undone
	halted      bool
}

// Times of the loop.
const (
	saveAfter = 300 * time.Millisecond // quiet before the agreed state is written
	retryMost = 30 * time.Second
	paceMost  = 2 * time.Second
)

func (l *loop) run(ctx context.Context) error {
	l.host, l.there = map[string]bool{}, map[string]bool{}
	if err := l.round(ctx); err != nil {
		return err
	}
	for {
		timer := l.timer()
		select {
		case <-ctx.Done():
			return l.leave()
		case <-l.guest.Done():
			return l.guest.Err()
		case paths, ok := <-l.watch.Dirty:
			if !ok {
				return ctx.Err()
			}
			add(l.host, paths)
		case <-l.guest.Changed:
			add(l.there, l.guest.Dirty())
		case r := <-l.s.requests:
			err := r.do(ctx, l.e)
			r.reply <- err
			if l.guest.ended() {
				return l.guest.Err()
			}
		case <-timer:
			if err := l.due(ctx); err != nil {
				return err
			}
			continue
		}
		if err := l.round(ctx); err != nil {
			return err
		}
	}
}

// leave keeps what was agreed when the session ends in order.
func (l *loop) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	return l.e.save(ctx)
}

func add(set map[string]bool, paths []string) {
	for _, p := range paths {
		set[p] = true
	}
}

// timer is when the loop has something to do without a change.
func (l *loop) timer() <-chan time.Time {
	at := l.wake
	if save := time.Now().Add(saveAfter); l.e.agreed && (at.IsZero() || save.Before(at)) {
		at = save
	}
	if at.IsZero() {
		return nil
	}
	return time.After(max(time.Until(at), 0))
}

func (l *loop) due(ctx context.Context) error {
	if !l.wake.IsZero() && !time.Now().Before(l.wake) {
		return l.round(ctx)
	}
	return l.e.save(ctx)
}

// round looks at what is dirty and settles it. After it the loop rests for as long as it
// took: a side that never stops changing has half of one processor.
func (l *loop) round(ctx context.Context) error {
	began := time.Now()
	if l.halted { // what halted it is not to be overlooked
		l.host[""], l.there[""] = true, true
	}
	host, there := slices.Collect(maps.Keys(l.host)), slices.Collect(maps.Keys(l.there))
	clear(l.host)
	clear(l.there)
	if err := l.e.look(ctx, host, there); err != nil {
		return err
	}
	out, err := l.e.settle(ctx, false, false)
	if err != nil {
		return err
	}
	l.halted, l.wake = len(out.plan.Halts) > 0, time.Time{}
	if out.again > 0 {
		l.wake = time.Now().Add(out.again)
	}
	l.again(out)
	l.s.report(l.e, out)
	l.s.tell(func(st *Status) {
		st.Took = time.Since(began)
		st.Notes = slices.DeleteFunc([]string{l.watch.Note(), l.guest.Note()}, func(s string) bool { return s == "" })
	})
	return rest(ctx, min(time.Since(began), paceMost))
}

// again looks once more at what could not be done, ever later.
func (l *loop) again(out outcome) {
	if len(out.retry) == 0 {
		l.tries = 0
		return
	}
	add(l.host, out.retry[tree.Host])
	add(l.there, out.retry[tree.Guest])
	pause := min(firstPause<<min(l.tries, 10), retryMost)
	l.tries++
	if at := time.Now().Add(pause); l.wake.IsZero() || at.Before(l.wake) {
		l.wake = at
	}
}

func rest(ctx context.Context, d time.Duration) error {
	if d < time.Millisecond {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// report puts what a round left into the status.
func (s *Session) report(e *engine, out outcome) {
	conflicts := conflictsIn(e.h)
	var failed []string
	for p, why := range e.failures {
		failed = append(failed, strconv.Quote(p)+": "+why)
	}
	slices.Sort(failed)
	waiting := 0
	if e.review {
		waiting = len(out.plan.Conflicts) + len(out.plan.Held)
		for _, a := range out.plan.Actions {
			if a.Side == tree.Host {
				waiting++
			}
		}
	}
	s.logHeld(out.plan.Held)
	s.tell(func(st *Status) {
		st.State, st.Halts, st.Held, st.Conflicts = Watching, out.plan.Halts, out.plan.Held, conflicts
		st.Files, st.Bytes, st.Failed, st.Waiting = len(e.h), e.bytes, failed, waiting
		if len(st.Halts) > 0 {
			st.State = Halted
		} else if len(failed) == 0 && out.again == 0 {
			st.Synced = time.Now()
		}
	})
}

// maxLogged bounds the lines of one round: a guest can make any number of held changes.
const maxLogged = 100

// logHeld writes a line for what is held and was not before.
func (s *Session) logHeld(held []tree.Held) {
	type line struct{ path, reason string }
	before := map[line]bool{}
	for _, h := range s.Status().Held {
		before[line{h.Path, h.Reason}] = true
	}
	lines := 0
	for _, h := range held {
		if before[line{h.Path, h.Reason}] {
			continue
		}
		if lines++; lines > maxLogged {
			s.cfg.Log.Warn("more is held", "all", len(held))
			return
		}
		s.cfg.Log.Warn("held on its side", "path", h.Path, "reason", h.Reason)
	}
}
