package netfilter

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Decide answers a request. It is pure and total: any Request has a Verdict, and
// what is not understood is denied.
//
//   - The most specific matching pattern decides. Of the rules for one pattern, those that
//     name methods or paths go before those that do not, and between equals deny wins. An allow
//     rule with methods or paths claims its pattern: other requests fall to a rule for the whole of the
//     same pattern, or are denied; they do not fall to a wider pattern, nor to a HostRule, which
//     then only says where the name leads.
//   - A deny of the user's own (file or `sbx policy deny`) is lifted by nothing but
//     a more specific allow of the user's own: not by the project, not by a preset.
//   - With Port 0 the question is whether the name may be resolved at all: it may
//     if there is a port that would be allowed. With no Method it is whether a
//     connection may be made: it may if some request would be allowed.
//   - A literal address is allowed by a rule for a range of addresses alone.
//   - Names that are not canonical, and local names that no HostRule spells, are denied
//     whatever the rules say.
func (p *Policy) Decide(req Request) Verdict {
	if req.Addr.IsValid() {
		return p.decideAddr(req.Addr, req.Port)
	}
	if name, err := Canonical(req.Name); err != nil || name != req.Name {
		return Verdict{Reason: ReasonBadName}
	}
	matching := p.matching(req.Name)
	if localName(req.Name) {
		matching = slices.DeleteFunc(matching, func(c *compiled) bool { return c.pat.kind != kindExact || c.target == (Target{}) })
		if len(matching) == 0 {
			return Verdict{Reason: ReasonLocalName}
		}
	}
	var v Verdict
	if req.Port != 0 {
		v = p.decidePort(matching, req)
	} else {
		v = p.decideName(matching, req)
	}
	v.Ask = p.ask > 0 && (v.Reason == ReasonNoRule || v.Reason == ReasonPort)
	return v
}

// Intercepts tells whether requests over TLS to a canonical name and port have to be read.
func (p *Policy) Intercepts(name string, port uint16) bool {
	return p.Decide(Request{Name: name, Port: port}).Intercept
}

// matching gives the rules for a name, strongest first.
func (p *Policy) matching(name string) []*compiled {
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
func (p *Policy) decideName(matching []*compiled, req Request) Verdict {
	req.Port = 443
	best := p.decidePort(matching, req)
	for _, port := range breakpoints(matching) {
		if best.Allow {
			return best
		}
		req.Port = port
		if v := p.decidePort(matching, req); v.Allow || best.Rule == nil {
			best = v
		}
	}
	if !best.Allow && best.Rule == nil {
		best.Reason = ReasonNoRule
	}
	return best
}

func breakpoints(rules []*compiled) []uint16 {
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

func (p *Policy) decidePort(matching []*compiled, req Request) Verdict {
	narrow, paths := false, false
	for _, c := range matching {
		if _, ok := find(c.ports, req.Port); ok && c.scope.narrow() {
			narrow, paths = true, paths || len(c.scope.paths) > 0
		}
	}
	q := question{port: req.Port, method: req.Method}
	if req.Method != "" && paths {
		var ok bool
		if q.segments, ok = segmentsOf(req.Path); !ok {
			return Verdict{Intercept: true, Reason: ReasonBadPath}
		}
	}
	v := p.decideQuestion(matching, q)
	if v.Allow && v.Target == (Target{}) {
		v.Target = leadsTo(matching, req.Port)
	}
	if narrow {
		v.Raw = false // a rule of another's cannot take away what a rule about requests needs
	}
	v.Intercept = v.Allow && !v.Raw && (narrow || p.hasSecret(req.Name))
	return v
}

// leadsTo is where the strongest host rule for the port leads. It holds for what other rules allow as well:
// they say what may be asked there.
func leadsTo(matching []*compiled, port uint16) Target {
	for _, c := range matching {
		if _, ok := find(c.ports, port); ok && c.target != (Target{}) {
			return c.target
		}
	}
	return Target{}
}

func (p *Policy) hasSecret(name string) bool {
	return slices.ContainsFunc(p.secrets, func(c compiledSecret) bool { return c.covers(name) })
}

// question is what is asked of the rules that match a name or an address.
type question struct {
	port     uint16
	method   string // empty: a connection, of which nothing is known yet
	segments []string
}

func (p *Policy) decideQuestion(matching []*compiled, q question) Verdict {
	if j := judge(matching, q, (*compiled).users); j.found && !j.allow && j.rule.rule.Action == Deny {
		return j.verdict()
	}
	if j := judge(matching, q, func(*compiled) bool { return true }); j.found {
		return j.verdict()
	}
	switch {
	case p.allowAll && (q.port == 443 || q.port == 80):
		return Verdict{Allow: true, Reason: ReasonDefaultAllow}
	case p.allowAll || slices.ContainsFunc(matching, func(c *compiled) bool { return c.rule.Action == Allow }):
		return Verdict{Reason: ReasonPort}
	}
	return Verdict{Reason: ReasonNoRule}
}

// judged is the rule that decides, and how.
type judged struct {
	rule  *compiled
	at    portRange
	found bool
	allow bool
}

func (j judged) verdict() Verdict {
	v := Verdict{Allow: j.allow, Rule: &j.rule.rule}
	switch {
	case j.allow:
		v.Raw, v.Target, v.MaxUpload, v.Reason = j.at.raw, j.rule.target, j.rule.rule.MaxUpload, ReasonAllowed
	case j.rule.rule.Action == Deny:
		v.Reason = ReasonDenied
	default:
		v.Reason = ReasonRequest
	}
	return v
}

// judge finds what decides among the rules that want allows, which come strongest first: group by
// group of equal patterns.
func judge(matching []*compiled, q question, want func(*compiled) bool) judged {
	for len(matching) > 0 {
		n := 1
		for n < len(matching) && matching[n].pat.specificity() == matching[0].pat.specificity() {
			n++
		}
		if j := judgeGroup(matching[:n], q, want); j.found {
			return j
		}
		matching = matching[n:]
	}
	return judged{}
}

// judgeGroup decides among equals: narrow rules stand before whole ones, and deny before allow. Among allows
// of the same kind one that is read wins over a raw one.
func judgeGroup(group []*compiled, q question, want func(*compiled) bool) judged {
	var best, claim judged
	for _, c := range group {
		r, ok := find(c.ports, q.port)
		if !ok || !want(c) {
			continue
		}
		j := judged{rule: c, at: r, found: true, allow: c.rule.Action == Allow}
		covered := !c.scope.narrow() || q.method != "" && c.scope.covers(q.method, q.segments)
		switch {
		case !covered && !j.allow:
		case !covered: // a connection is allowed for its sake; a request is not
			if !claim.found {
				claim = j
			}
		case !best.found || j.sameRank(best) && best.at.raw && !r.raw:
			best = j
		}
	}
	if claim.found && best.found && best.rule.target != (Target{}) {
		best = judged{} // what a host rule adds is where the name leads
	}
	switch {
	case q.method == "" && claim.found && (!best.found || !best.allow):
		return claim
	case best.found:
		return best
	case claim.found:
		claim.allow = false
		return claim
	}
	return judged{}
}

func (j judged) sameRank(o judged) bool {
	return cmp.Compare(j.rule.rule.Action, o.rule.rule.Action) == 0 && j.rule.scope.narrow() == o.rule.scope.narrow()
}

// decideAddr decides a literal address: the longest range that holds it, by the same order as for names.
func (p *Policy) decideAddr(addr netip.Addr, port uint16) Verdict {
	var matching []*compiled
	for _, c := range p.ranges {
		if c.pat.prefix.Contains(addr) {
			matching = append(matching, c)
		}
	}
	if len(matching) == 0 || port == 0 {
		return Verdict{Reason: ReasonLiteral}
	}
	if j := judge(matching, question{port: port}, (*compiled).users); j.found && !j.allow {
		return j.verdict()
	}
	if j := judge(matching, question{port: port}, func(*compiled) bool { return true }); j.found {
		return j.verdict()
	}
	return Verdict{Reason: ReasonPort}
}
