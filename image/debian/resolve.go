package debian

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

// Universe is every package that may be chosen.
type Universe struct {
	byName   map[string][]*Package // newest first
	provides map[string][]provision
}

type provision struct {
	by      *Package
	version string // "" for an unversioned Provides
}

// NewUniverse joins indexes. Where suites carry the same name and version the
// earlier one wins.
func NewUniverse(lists ...[]Package) (*Universe, error) {
	u := &Universe{byName: map[string][]*Package{}, provides: map[string][]provision{}}
	for _, list := range lists {
		for i := range list {
			p := &list[i]
			u.byName[p.Name] = append(u.byName[p.Name], p)
		}
	}
	for _, same := range u.byName {
		slices.SortStableFunc(same, func(a, b *Package) int { return compare(b.Version, a.Version) })
	}
	for _, same := range u.byName {
		// Only the newest is ever installed, so only it provides.
		if err := u.addProvides(same[0]); err != nil {
			return nil, err
		}
	}
	for _, list := range u.provides {
		slices.SortFunc(list, func(a, b provision) int { return preferred(a.by, b.by) })
	}
	return u, nil
}

func (u *Universe) addProvides(p *Package) error {
	if p.Provides == "" {
		return nil
	}
	relations, err := dependency.Parse(p.Provides)
	if err != nil {
		return fmt.Errorf("package %s: Provides %q: %w", p.Name, p.Provides, err)
	}
	for _, relation := range relations.Relations {
		for _, possible := range relation.Possibilities {
			v := ""
			if possible.Version != nil {
				v = possible.Version.Number
			}
			u.provides[possible.Name] = append(u.provides[possible.Name], provision{by: p, version: v})
		}
	}
	return nil
}

// preferred orders the providers of a virtual package: what a standard system
// has first, then by name.
func preferred(a, b *Package) int {
	rank := func(p *Package) int {
		if i := slices.Index([]string{"required", "important", "standard"}, p.Priority); i >= 0 {
			return i
		}
		return 3
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a.Name, b.Name)
}

// Newest returns the newest version of a package, or nil.
func (u *Universe) Newest(name string) *Package {
	if same := u.byName[name]; len(same) > 0 {
		return same[0]
	}
	return nil
}

// Base returns the names of a minimal system: Essential or Priority required.
func (u *Universe) Base() (essential, required []string) {
	for name, same := range u.byName {
		switch {
		case same[0].Essential:
			essential = append(essential, name)
		case same[0].Priority == "required":
			required = append(required, name)
		}
	}
	slices.Sort(essential)
	slices.Sort(required)
	return essential, required
}

// Resolve returns the packages that names come to with all they depend on
// (Pre-Depends and Depends, never Recommends), dependencies first. A cycle is
// cut at the member that was reached first. All faults are reported at once.
func (u *Universe) Resolve(names []string) ([]*Package, error) {
	r := &resolver{u: u, chosen: map[string]*Package{}, visited: map[string]bool{}}
	var roots []*Package
	for _, name := range names {
		p := u.Newest(name)
		if p == nil {
			r.fail("no package %q in the archive", name)
			continue
		}
		roots = append(roots, p)
		r.chosen[p.Name] = p // asked for by name: preferred wherever it is an alternative
	}
	for _, p := range roots {
		r.visit(p)
	}
	r.conflicts()
	return r.order, errors.Join(r.faults...)
}

type resolver struct {
	u       *Universe
	chosen  map[string]*Package
	visited map[string]bool
	order   []*Package
	faults  []error
}

func (r *resolver) fail(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf(format, args...))
}

func (r *resolver) visit(p *Package) {
	if r.visited[p.Name] {
		return
	}
	r.visited[p.Name] = true
	r.chosen[p.Name] = p
	for _, field := range []string{p.PreDepends, p.Depends} {
		for _, relation := range r.relations(p, field) {
			dep := r.choose(relation)
			if dep == nil {
				r.fail("package %s needs %q, which the archive does not have", p.Name, relation.String())
				continue
			}
			r.visit(dep)
		}
	}
	r.order = append(r.order, p)
}

func (r *resolver) relations(p *Package, field string) []dependency.Relation {
	if field == "" {
		return nil
	}
	parsed, err := dependency.Parse(field)
	if err != nil {
		r.fail("package %s: relation %q: %w", p.Name, field, err)
		return nil
	}
	return parsed.Relations
}

// choose takes what is chosen already, else the first alternative that exists.
func (r *resolver) choose(relation dependency.Relation) *Package {
	for _, possible := range relation.Possibilities {
		if p := r.find(possible, true); p != nil {
			return p
		}
	}
	for _, possible := range relation.Possibilities {
		if p := r.find(possible, false); p != nil {
			return p
		}
	}
	return nil
}

// find returns the package that satisfies possible, a real one before a provider.
func (r *resolver) find(possible dependency.Possibility, onlyChosen bool) *Package {
	usable := func(p *Package) bool { return !onlyChosen || r.chosen[p.Name] != nil }
	if p := r.u.Newest(possible.Name); p != nil && usable(p) && satisfies(possible.Version, p.Version) {
		return p
	}
	for _, provided := range r.u.provides[possible.Name] {
		// An unversioned Provides satisfies no versioned relation (policy 7.5).
		if usable(provided.by) && (possible.Version == nil || provided.version != "" && satisfies(possible.Version, provided.version)) {
			return provided.by
		}
	}
	return nil
}

func satisfies(relation *dependency.VersionRelation, have string) bool {
	if relation == nil {
		return true
	}
	v, err := version.Parse(have)
	return err == nil && relation.SatisfiedBy(v)
}

// conflicts refuses a set whose members exclude one another: dpkg would too,
// minutes later.
func (r *resolver) conflicts() {
	for _, p := range r.order {
		for _, field := range []string{p.Conflicts, p.Breaks} {
			for _, relation := range r.relations(p, field) {
				for _, possible := range relation.Possibilities {
					if other := r.find(possible, true); other != nil && other != p {
						r.fail("package %s does not go with %s (%q)", p.Name, other.Name, possible.String())
					}
				}
			}
		}
	}
}
