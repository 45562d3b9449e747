package tree

// collide finds the guest's names that a folding file system of the host cannot keep
// apart. One of them has the name: the host's own, else the first. A rename that changes
// the case alone is made as such, so that nothing is deleted on the way.
func (r *reconciler) collide() {
	if r.o.Fold == nil {
		return
	}
	r.collisions = map[string]string{}
	owner := map[string]string{}
	for p := range r.host {
		owner[r.o.Fold(p)] = p
	}
	moved := ""
	for _, p := range r.guest.Paths() {
		f := r.o.Fold(p)
		first, taken := owner[f]
		switch {
		case moved != "" && Within(p, moved): // it goes with its folder
		case !taken:
			owner[f] = p
		case first == p:
		case r.host[first].Kind != None && r.guest[first].Kind == None && Same(r.host[first], r.base[first]) && r.base[p].Kind == None:
			r.plan.Actions = append(r.plan.Actions, Action{Op: Rename, Side: Host, Path: first, To: p, Have: r.host[first]})
			r.renamed(first, p)
			owner[f], moved = p, p
		default:
			r.collisions[p] = first
		}
	}
}

// renamed leaves both names of a case-only rename to the next plan.
func (r *reconciler) renamed(from, to string) {
	var left []string
	for _, p := range r.paths {
		if !Within(p, from) && !Within(p, to) {
			left = append(left, p)
		}
	}
	r.paths = left
}
