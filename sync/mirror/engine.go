//go:build unix

package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// engine brings two replicas together. It is not safe for use by two goroutines.
type engine struct {
	root        *disk.Root // the host's, beneath host
	each        *atomic.Bool
	host, guest replica
	policy      *policy
	log         *slog.Logger
	review      bool
	maxDeletes  int
	reserve     int64
	fold        func(string) string
	now         func() time.Time
	fail        func(step string) error
	memory      *memory

	base tree.Tree // last agreed
	h, g tree.Tree // last seen
	// differ are the paths at which the three are not the same. A plan looks at no others.
	differ map[string]bool

	deletes    map[string]bool // the guest's, that wait until it is quiet
	lastDelete time.Time
	deleted    []burst // carried out a moment ago
	agreed     bool    // base changed since it was saved
	written    bool    // the guest's copy did
	failures   map[string]string
	bytes      int64
}

type burst struct {
	at time.Time
	n  int
}

// Times of deletions: a tree that goes away goes in bits, and is judged as a whole.
const (
	deleteQuiet  = time.Second
	deleteWindow = time.Minute
)

// outcome is what a round left.
type outcome struct {
	plan  tree.Plan
	again time.Duration // look again after this; 0: not before something changes
	retry map[tree.Side][]string
}

// look reads the paths on both sides.
func (e *engine) look(ctx context.Context, host, guest []string) error {
	host, guest = rootsOf(host, e.h), rootsOf(guest, e.g)
	var h, g tree.Tree
	var both errgroup.Group
	both.Go(func() (err error) { h, err = e.scan(ctx, e.host, host, e.h); return err })
	both.Go(func() (err error) { g, err = e.scan(ctx, e.guest, guest, e.g); return err })
	if err := both.Wait(); err != nil {
		return err
	}
	e.merge(e.h, host, h)
	e.merge(e.g, guest, g)
	return nil
}

func (e *engine) scan(ctx context.Context, r replica, paths []string, known tree.Tree) (tree.Tree, error) {
	if len(paths) == 0 {
		return tree.Tree{}, nil
	}
	found, err := r.Scan(ctx, paths, known)
	for p, entry := range found {
		if known[p].Kind == entry.Kind {
			continue // it was asked about when it was new
		}
		if e.masked(p, entry) {
			delete(found, p)
		}
	}
	return found, err
}

// masked tells whether neither side's entry is mirrored. Also what is no file any more: a folder of that name
// could hide one.
func (e *engine) masked(p string, entry tree.Entry) bool {
	return entry.Kind != tree.Folder && e.policy.mask.Masked(strings.Split(p, "/"))
}

// merge puts what was found at and below the paths in the place of what was known.
func (e *engine) merge(t tree.Tree, paths []string, found tree.Tree) {
	for _, p := range t.Below(paths) {
		if found[p].Kind == tree.None {
			e.set(t, p, tree.Entry{})
		}
	}
	for p, entry := range found {
		if t[p] != entry {
			e.set(t, p, entry)
		}
	}
}

// set changes one entry of one of the trees.
func (e *engine) set(t tree.Tree, p string, entry tree.Entry) {
	if entry.Kind == tree.None {
		delete(t, p)
	} else {
		t[p] = entry
	}
	if tree.Differs(e.base[p], e.h[p], e.g[p]) {
		e.differ[p] = true
	} else {
		delete(e.differ, p)
	}
}

// compare finds all that differs.
func (e *engine) compare() {
	e.differ = map[string]bool{}
	for _, t := range []tree.Tree{e.base, e.h, e.g} {
		for p := range t {
			if tree.Differs(e.base[p], e.h[p], e.g[p]) {
				e.differ[p] = true
			}
		}
	}
}

// rootsOf replaces paths whose folder is not known by that folder, and drops those below others.
func rootsOf(paths []string, t tree.Tree) []string {
	set := map[string]bool{}
	for _, p := range paths {
		for p != "" && tree.Dir(p) != "" && t[tree.Dir(p)].Kind != tree.Folder {
			p = tree.Dir(p)
		}
		set[p] = true
	}
	out := make([]string, 0, len(set))
next:
	for p := range set {
		for dir := p; dir != ""; {
			if dir = tree.Dir(dir); set[dir] {
				continue next
			}
		}
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func (e *engine) options(confirmed bool) tree.Options {
	gone := 0
	e.deleted = slices.DeleteFunc(e.deleted, func(b burst) bool { return e.now().Sub(b.at) > deleteWindow })
	for _, b := range e.deleted {
		gone += b.n
	}
	return tree.Options{
		Hold: e.policy.hold, Precious: gitFolder, Fold: e.fold, MaxDeletes: e.maxDeletes,
		Deleted: gone, Confirmed: confirmed, Review: e.review, Among: e.differ,
	}
}

// settle carries out what there is to do, in rounds, until there is no more. Deletions by
// the guest wait until it has made no new ones for a while, unless now.
func (e *engine) settle(ctx context.Context, now, confirmed bool) (outcome, error) {
	out := outcome{retry: map[tree.Side][]string{}}
	e.failures = map[string]string{}
	for range maxRounds {
		if err := e.root.Check(); err != nil {
			return out, err
		}
		out.plan = tree.Reconcile(e.base, e.h, e.g, e.options(confirmed))
		e.settled(out.plan.Settled)
		if e.review { // what the guest deletes in its own copy is for the user to see, and nothing more
			out.plan.Halts = slices.DeleteFunc(out.plan.Halts, func(h tree.Halt) bool { return h.Side == tree.Guest })
		}
		if len(out.plan.Halts) > 0 {
			return out, nil
		}
		actions := out.plan.Actions
		if e.review {
			actions = slices.DeleteFunc(slices.Clone(actions), func(a tree.Action) bool { return a.Side == tree.Host })
		} else if !now {
			actions, out.again = e.wait(actions)
		}
		actions = slices.DeleteFunc(slices.Clone(actions), func(a tree.Action) bool { return e.failures[a.Path] != "" })
		if len(actions) == 0 {
			break
		}
		if err := e.apply(ctx, actions, out.retry); err != nil {
			return out, err
		}
	}
	return out, nil
}

// maxRounds bounds what one settle does: three are enough for any plan.
const maxRounds = 8

func (e *engine) settled(paths []string) {
	for _, p := range paths {
		e.agree(p, e.h[p])
	}
}

func (e *engine) agree(p string, entry tree.Entry) {
	e.agreed = true
	e.set(e.base, p, entry)
}

// wait leaves out the deletions on the host that are too fresh, and what goes to their places.
func (e *engine) wait(actions []tree.Action) ([]tree.Action, time.Duration) {
	deletes := map[string]bool{}
	for _, a := range actions {
		if a.Side == tree.Host && (a.Op == tree.Remove || a.Op == tree.RemoveFolder) {
			deletes[a.Path] = true
			if !e.deletes[a.Path] {
				e.lastDelete = e.now()
			}
		}
	}
	e.deletes = deletes
	left := deleteQuiet - e.now().Sub(e.lastDelete)
	if len(deletes) == 0 || left <= 0 {
		return actions, 0
	}
	return slices.DeleteFunc(slices.Clone(actions), func(a tree.Action) bool {
		return a.Side == tree.Host && tree.At(a.Path, deletes)
	}), left
}

func (e *engine) replica(s tree.Side) (replica, tree.Tree) {
	if s == tree.Host {
		return e.host, e.h
	}
	return e.guest, e.g
}

// apply carries actions out: first what is no file's content, then that.
func (e *engine) apply(ctx context.Context, actions []tree.Action, retry map[tree.Side][]string) error {
	for _, side := range []tree.Side{tree.Host, tree.Guest} {
		var plain []disk.Step
		var puts []tree.Action
		for _, a := range actions {
			switch {
			case a.Side != side:
			case a.Op == tree.Put && a.Want.Kind == tree.File:
				puts = append(puts, a)
			default:
				plain = append(plain, disk.Step{Action: a})
			}
		}
		if err := e.steps(ctx, side, plain, retry); err != nil {
			return err
		}
		for chunk := range chunks(puts) {
			if err := e.puts(ctx, side, chunk, retry); err != nil {
				return err
			}
		}
	}
	return nil
}

// steps has a replica carry steps out, and remembers what came of it.
func (e *engine) steps(ctx context.Context, side tree.Side, steps []disk.Step, retry map[tree.Side][]string) error {
	if len(steps) == 0 {
		return nil
	}
	if e.fail != nil {
		if err := e.fail("steps"); err != nil {
			return err
		}
	}
	r, t := e.replica(side)
	ctx, cancel := context.WithTimeout(ctx, deadline(0))
	defer cancel()
	results, err := r.Apply(ctx, steps)
	if err != nil {
		return err
	}
	e.written = e.written || side == tree.Guest
	gone := 0
	for i, s := range steps {
		if err := results[i]; err != nil {
			e.failed(s.Action, err, retry)
			continue
		}
		if s.Op == tree.Remove && side == tree.Host {
			gone++
		}
		e.did(t, s.Action)
	}
	if gone > 0 {
		e.deleted = append(e.deleted, burst{e.now(), gone})
	}
	if side == tree.Host {
		e.checkLinks(ctx, steps, results)
	}
	return nil
}

func (e *engine) failed(a tree.Action, err error, retry map[tree.Side][]string) {
	e.log.Debug("not done", "action", a.Op.String(), "path", a.Path, "error", err)
	if a.Op == tree.RemoveFolder {
		// Something that is not mirrored is in it: the folder stays, and is new.
		e.agree(a.Path, tree.Entry{})
	}
	e.failures[a.Path] = err.Error()
	retry[tree.Host] = append(retry[tree.Host], a.Path)
	retry[tree.Guest] = append(retry[tree.Guest], a.Path)
}

// did brings the trees to what an action left.
func (e *engine) did(t tree.Tree, a tree.Action) {
	switch a.Op {
	case tree.Remove, tree.RemoveFolder:
		e.set(t, a.Path, tree.Entry{})
		e.agree(a.Path, tree.Entry{})
	case tree.Rename:
		moved := tree.Tree{}
		for p, entry := range t {
			if tree.Within(p, a.Path) {
				moved[a.To+p[len(a.Path):]] = entry
			}
		}
		e.merge(t, []string{a.Path}, moved)
	case tree.Make, tree.Put:
		entry := a.Want
		entry.Stamp = tree.Stamp{}
		e.set(t, a.Path, entry)
		e.agree(a.Path, entry)
	}
}

// checkLinks takes back links that lead out of the workspace through others.
func (e *engine) checkLinks(ctx context.Context, steps []disk.Step, results []error) {
	var placed []disk.Step
	for i, s := range steps {
		if results[i] == nil && s.Op == tree.Put && s.Want.Kind == tree.Link {
			placed = append(placed, s)
		}
	}
	if len(placed) == 0 {
		return
	}
	escapes := false
	for p, entry := range e.h {
		escapes = escapes || entry.Kind == tree.Link && !outside(p, entry.Target) && e.root.Escapes(p)
	}
	for _, s := range placed {
		if !escapes {
			return
		}
		undo := tree.Action{Op: tree.Remove, Side: tree.Host, Path: s.Path, Have: s.Want}
		if err := e.root.Apply(ctx, disk.Step{Action: undo}); err != nil {
			e.log.Warn("a link leads out of the workspace", "path", s.Path, "error", err)
			continue
		}
		e.set(e.h, s.Path, tree.Entry{})
		e.agree(s.Path, tree.Entry{})
		e.policy.refuse(s.Path, s.Want, reasonOutside)
	}
}

// Deadlines of calls. A guest under emulation with a full disk queue may need seconds for
// an operation; one that takes longer is gone.
const (
	opLimit   = 30 * time.Second
	slowest   = 256 << 10 // bytes a second
	scanLimit = 10 * time.Minute
)

func deadline(size int64) time.Duration { return opLimit + time.Duration(size/slowest)*time.Second }

func conflictsIn(t tree.Tree) (out []string) {
	for p := range t {
		if strings.Contains(p, tree.ConflictMark) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

var errNoSpace = errors.New("the host's disk is nearly full")

func newPolicy(protect, mask []string, maxFile int64) (*policy, error) {
	g, err := guard.New(protect)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	m, err := guard.NewMask(mask)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return &policy{guard: g, mask: m, maxFile: maxFile, refused: map[string]refusal{}}, nil
}

// save keeps what was agreed, once the guest's disk has it.
func (e *engine) save(ctx context.Context) error {
	if !e.agreed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	if e.fail != nil {
		if err := e.fail("save"); err != nil {
			return err
		}
	}
	if e.written {
		if err := e.guest.Flush(ctx); err != nil {
			return err
		}
	}
	if err := e.host.Flush(ctx); err != nil {
		return err
	}
	if err := e.memory.save(ctx, e.base); err != nil {
		return err
	}
	e.agreed, e.written = false, false
	e.root.Tidy() // nothing is staged now, and the user need not see the folder
	return nil
}
