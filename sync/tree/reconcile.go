package tree

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ConflictMark is in every name that a conflict gave.
const ConflictMark = ".sbx-conflict-"

// Reconcile compares two trees with what they last agreed on. A nil base is a lost one.
// It does not change its arguments.
func Reconcile(base, host, guest Tree, o Options) Plan {
	r := reconciler{base: base, host: host, guest: guest, o: o}
	r.paths = r.different()
	r.collide()
	for i := 0; i < len(r.paths); {
		i = r.visit(i)
	}
	Order(r.plan.Actions)
	r.halt()
	return r.plan
}

type reconciler struct {
	base, host, guest Tree
	o                 Options
	paths             []string          // all that differ somewhere, in Compare's order
	collisions        map[string]string // the guest's paths that the host cannot tell apart, by the one that has the name
	plan              Plan
}

func (r *reconciler) different() []string {
	among := r.o.Among
	if among == nil {
		among = map[string]bool{}
		for _, t := range []Tree{r.base, r.host, r.guest} {
			for p := range t {
				among[p] = true
			}
		}
	}
	var out []string
	for p := range among {
		if Differs(r.base[p], r.host[p], r.guest[p]) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, Compare)
	return out
}

// Differs tells whether a path is not the same in all three trees.
func Differs(base, host, guest Entry) bool { return !Same(host, guest) || !Same(host, base) }

// end is behind the last path at or below paths[i].
func (r *reconciler) end(i int) int {
	j := i + 1
	for j < len(r.paths) && Within(r.paths[j], r.paths[i]) {
		j++
	}
	return j
}

// visit decides about paths[i] and gives the index to go on with: the next one, or
// behind all that is below if that is decided too.
func (r *reconciler) visit(i int) int {
	p := r.paths[i]
	b, h, g := r.base[p], r.host[p], r.guest[p]
	if h.Kind == Unknown || g.Kind == Unknown {
		why := h.Target
		if h.Kind != Unknown {
			why = g.Target
		}
		r.hold(p, why)
		return r.end(i)
	}
	hostChanged, guestChanged := !Same(h, b), !Same(g, b)
	switch {
	case Same(h, g):
		r.plan.Settled = append(r.plan.Settled, p)
		return i + 1
	case !hostChanged:
		return r.toHost(i)
	case !guestChanged:
		return r.toGuest(i)
	case h.Kind == None:
		return r.toHost(i) // deleted here, changed there: the change survives
	case g.Kind == None:
		return r.toGuest(i)
	case h.Kind == File && g.Kind == File && h.Hash == g.Hash && h.Size == g.Size:
		r.act(Action{Op: Put, Side: Guest, Path: p, Have: g, Want: h}) // they differ in the mode alone
		return i + 1
	}
	return r.conflict(i)
}

func (r *reconciler) toHost(i int) int {
	p := r.paths[i]
	h, g := r.host[p], r.guest[p]
	if with, ok := r.collisions[p]; ok {
		r.hold(p, fmt.Sprintf("the host's file system takes it for %q", with))
		return r.end(i)
	}
	if g.Kind == None && h.Kind == Folder {
		return r.removeFolder(i, Host)
	}
	if r.o.Hold != nil {
		if why := r.o.Hold(p, h, g); why != "" {
			if g.Kind == None && r.o.Precious != nil && r.o.Precious(p) {
				r.plan.Halts = append(r.plan.Halts, Halt{Side: Guest, Reason: ProtectedDeleted, Path: p})
			}
			r.hold(p, why)
			return r.end(i)
		}
	}
	return r.flow(i, Host, h, g)
}

func (r *reconciler) toGuest(i int) int {
	p := r.paths[i]
	if r.host[p].Kind == None && r.guest[p].Kind == Folder {
		return r.removeFolder(i, Guest)
	}
	return r.flow(i, Guest, r.guest[p], r.host[p])
}

// flow makes have, on side, what want is on the other.
func (r *reconciler) flow(i int, side Side, have, want Entry) int {
	p := r.paths[i]
	if have.Kind == Folder { // want is none
		if r.survives(i, side) {
			return r.conflict(i)
		}
		j := i + 1
		for j < r.end(i) {
			j = r.visit(j)
		}
		r.act(Action{Op: RemoveFolder, Side: side, Path: p, Have: have})
		r.act(Action{Op: Put, Side: side, Path: p, Want: want})
		return j
	}
	switch want.Kind {
	case None:
		r.act(Action{Op: Remove, Side: side, Path: p, Have: have})
	case Folder:
		if have.Kind != None {
			r.act(Action{Op: Remove, Side: side, Path: p, Have: have})
		}
		r.act(Action{Op: Make, Side: side, Path: p, Want: want})
	default:
		r.act(Action{Op: Put, Side: side, Path: p, Have: have, Want: want})
	}
	return i + 1
}

// removeFolder follows the other side's deletion of a folder, unless something in it
// is to stay: then it stays, and comes back where it was deleted if it must.
func (r *reconciler) removeFolder(i int, side Side) int {
	p, end := r.paths[i], r.end(i)
	if side == Host && r.o.Precious != nil && r.o.Precious(p) {
		r.plan.Halts = append(r.plan.Halts, Halt{Side: Guest, Reason: ProtectedDeleted, Path: p})
	}
	stays := r.survives(i, side)
	if stays {
		r.act(Action{Op: Make, Side: other(side), Path: p, Want: Entry{Kind: Folder}})
	}
	held := len(r.plan.Held)
	for j := i + 1; j < end; {
		j = r.visit(j)
	}
	switch {
	case stays:
	case len(r.plan.Held) > held:
		r.hold(p, "it holds what is kept")
	default:
		r.act(Action{Op: RemoveFolder, Side: side, Path: p, Have: Entry{Kind: Folder}})
	}
	return end
}

// survives tells whether something below paths[i] on a side is new there, changed or unknown.
func (r *reconciler) survives(i int, side Side) bool {
	t := r.host
	if side == Guest {
		t = r.guest
	}
	for _, p := range r.paths[i+1 : r.end(i)] {
		if e := t[p]; e.Kind != None && !Same(e, r.base[p]) {
			return true
		}
	}
	return false
}

// conflict leaves the host's version where it is and gives the guest's, with all that
// is below it, a name of its own. The next plan copies both.
func (r *reconciler) conflict(i int) int {
	p := r.paths[i]
	c := Conflict{Path: p, Host: r.host[p], Guest: r.guest[p], Kept: r.freeName(p, r.guest[p])}
	r.plan.Conflicts = append(r.plan.Conflicts, c)
	if !r.o.Review {
		r.act(Action{Op: Rename, Side: Guest, Path: p, To: c.Kept, Have: c.Guest})
	}
	return r.end(i)
}

// freeName is what a conflict's version is kept as: the same for the same content, and
// nobody's yet.
func (r *reconciler) freeName(p string, e Entry) string {
	id := e.Hash[:4]
	if e.Kind != File {
		id = []byte(e.Kind.String()[:4])
	}
	dir, name := path.Split(p)
	mark := ConflictMark + hex.EncodeToString(id)
	name = name[:min(len(name), maxName-len(mark)-8)]
	for n := 1; ; n++ {
		to := dir + name + mark
		if n > 1 {
			to += fmt.Sprintf("-%d", n)
		}
		if r.base[to].Kind == None && r.host[to].Kind == None && r.guest[to].Kind == None {
			return to
		}
	}
}

func (r *reconciler) hold(p, why string) {
	r.plan.Held = append(r.plan.Held, Held{Path: p, Reason: why, Guest: r.guest[p]})
}

func (r *reconciler) act(a Action) { r.plan.Actions = append(r.plan.Actions, a) }

func other(s Side) Side { return Host + Guest - s }

// Order sorts actions so that each finds what it needs.
func Order(actions []Action) { slices.SortStableFunc(actions, byPhase) }

// byPhase orders actions; content goes before its folder and comes after it.
func byPhase(a, b Action) int {
	if a, b := phase(a), phase(b); a != b {
		return a - b
	}
	if phase(a) == 1 {
		return Compare(b.Path, a.Path)
	}
	return Compare(a.Path, b.Path)
}

func phase(a Action) int {
	switch a.Op {
	case Rename:
		return 0
	case Remove, RemoveFolder:
		return 1
	case Make:
		return 2
	}
	return 3
}

// halt looks at the whole: a plan that deletes too much stops.
func (r *reconciler) halt() {
	if r.o.Confirmed {
		r.plan.Halts = nil
		return
	}
	for _, s := range []struct {
		side Side
		tree Tree
		gone int
	}{{Guest, r.guest, r.o.Deleted}, {Host, r.host, 0}} {
		removed := s.gone
		for _, a := range r.plan.Actions {
			if a.Op == Remove && a.Side == other(s.side) {
				removed++
			}
		}
		if len(s.tree) == 0 && topLevel(r.base) >= 2 {
			r.plan.Halts = append(r.plan.Halts, Halt{Side: s.side, Reason: Emptied})
			continue
		}
		if removed <= fewDeletes && r.o.MaxDeletes <= 0 {
			continue
		}
		if of := r.base.files() + s.gone; removed > r.o.threshold(of) {
			r.plan.Halts = append(r.plan.Halts, Halt{Side: s.side, Reason: DeletedMany, Count: removed, Of: of})
		}
	}
}

// files counts all but folders.
func (t Tree) files() (n int) {
	for _, e := range t {
		if e.Kind != Folder {
			n++
		}
	}
	return n
}

func topLevel(t Tree) (n int) {
	for p := range t {
		if !strings.Contains(p, "/") {
			n++
		}
	}
	return n
}
