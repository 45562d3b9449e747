package netfilter

import (
	"cmp"
	"slices"
	"strings"
)

// Decide answers a request. It is pure and total: any Request has a Verdict, and
// what is not understood is denied.
//
//   - The most specific matching rule decides, between equals deny.
//   - A deny of the user's own (file or `sbx policy deny`) is lifted by nothing but
//     a more specific allow of the user's own: not by the project, not by a preset.
//   - With Port 0 the question is whether the name may be resolved at all: it may
//     if there is a port that would be allowed.
//   - Literal addresses, names that are not canonical and local names are denied
//     whatever the rules say.
func (p *Policy) Decide(req Request) Verdict {
	if req.Addr.IsValid() {
		return Verdict{Reason: ReasonLiteral}
	}
	if name, err := Canonical(req.Name); err != nil || name != req.Name {
		return Verdict{Reason: ReasonBadName}
	}
	if localName(req.Name) {
		return Verdict{Reason: ReasonLocalName}
	}
	matching := p.matching(req.Name)
	if req.Port != 0 {
		return p.decidePort(matching, req.Port)
	}
	return p.decideName(matching)
}

// matching gives the rules for a name, strongest first.
func (p *Policy) matching(name string) []compiled {
	found := slices.Clone(p.index[ruleKey{kindExact, name}])
	found = append(found, p.index[ruleKey{kindBelow, name}]...)
	for rest, direct := name, true; ; direct = false {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if direct {
			found = append(found, p.index[ruleKey{kindChild, parent}]...)
		}
		found = append(found, p.index[ruleKey{kindBelow, parent}]...)
		rest = parent
	}
	return append(found, p.index[ruleKey{kindAny, ""}]...)
}

// decideName tries every port at which the verdict can change: where a range of
// a matching rule begins, and just after one ends.
func (p *Policy) decideName(matching []compiled) Verdict {
	best := p.decidePort(matching, 443)
	for _, port := range breakpoints(matching) {
		if best.Allow {
			return best
		}
		if v := p.decidePort(matching, port); v.Allow || best.Rule == nil {
			best = v
		}
	}
	if !best.Allow && best.Rule == nil {
		best.Reason = ReasonNoRule
	}
	return best
}

func breakpoints(rules []compiled) []uint16 {
	ports := []uint16{80, 443}
	for _, c := range rules {
		for _, r := range c.ports {
			ports = append(ports, r.lo)
			if r.hi < 65535 {
				ports = append(ports, r.hi+1)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func (p *Policy) decidePort(matching []compiled, port uint16) Verdict {
	if c, _, ok := strongest(matching, port, compiled.users); ok && c.rule.Action == Deny {
		return Verdict{Rule: &c.rule, Reason: ReasonDenied}
	}
	c, r, ok := strongest(matching, port, func(compiled) bool { return true })
	switch {
	case ok && c.rule.Action == Deny:
		return Verdict{Rule: &c.rule, Reason: ReasonDenied}
	case ok:
		return Verdict{Allow: true, Raw: r.raw, Rule: &c.rule, Reason: ReasonAllowed}
	case p.allowAll && (port == 443 || port == 80):
		return Verdict{Allow: true, Reason: ReasonDefaultAllow}
	case p.allowAll || slices.ContainsFunc(matching, func(c compiled) bool { return c.rule.Action == Allow }):
		return Verdict{Reason: ReasonPort}
	}
	return Verdict{Reason: ReasonNoRule}
}

// strongest gives the rule that decides a port among those that want allows. The
// rules come strongest first, so only equals of the first match are compared:
// deny stands before allow already, and among allows one that is read wins.
func strongest(matching []compiled, port uint16, want func(compiled) bool) (compiled, portRange, bool) {
	var best compiled
	var at portRange
	found := false
	for _, c := range matching {
		if found && cmp.Or(cmp.Compare(c.pat.specificity(), best.pat.specificity()), cmp.Compare(c.rule.Action, best.rule.Action)) != 0 {
			break
		}
		if !want(c) {
			continue
		}
		if r, ok := find(c.ports, port); ok && (!found || at.raw && !r.raw) {
			best, at, found = c, r, true
		}
	}
	return best, at, found
}
