package netfilter

import (
	"fmt"
	"strings"
)

// lint gives the warnings of a policy: rules that can never decide anything, and
// allow rules that reach a name which strangers share. The presets were looked
// at when they were written and are left alone.
func (p *Policy) lint() []Warning {
	var out []Warning
	for _, c := range p.rules {
		if strings.HasPrefix(c.rule.Origin.Source, "preset:") {
			continue
		}
		if by, ok := p.shadowedBy(c); ok {
			out = append(out, Warning{c.rule, fmt.Sprintf("has no effect, the %s rule %q of %s decides instead",
				by.Action, by.Pattern, by.Origin.Source)})
			continue
		}
		if host := sharedHost(c.pat); host != "" && c.rule.Action == Allow {
			out = append(out, Warning{c.rule, fmt.Sprintf("covers %s, where anybody can have an account: data can leave through it", host)})
		}
	}
	return out
}

// shadowedBy gives the rule that decides everywhere in the place of c, if c
// decides nowhere. It asks about a name that is typical for the pattern, one that
// no narrower pattern was written for, at every port where the answer can change.
func (p *Policy) shadowedBy(c compiled) (Rule, bool) {
	matching := p.matching(c.pat.typical())
	var by *Rule
	for _, port := range breakpoints(matching) {
		if _, ok := find(c.ports, port); !ok {
			continue
		}
		v := p.decidePort(matching, port)
		if sameRule(*v.Rule, c.rule) {
			return Rule{}, false
		}
		by = v.Rule
	}
	return *by, true // every rule has a port, and at it a rule decided
}

func sameRule(a, b Rule) bool {
	return a.Action == b.Action && a.Pattern == b.Pattern && a.Origin == b.Origin
}

// typical is a name that the pattern matches. The labels are such as nobody
// writes a rule for.
func (p pattern) typical() string {
	const label = "sbx-typical-name"
	switch p.kind {
	case kindExact:
		return p.base
	case kindChild:
		return label + "." + p.base
	case kindBelow:
		return label + "." + label + "." + p.base
	default:
		return label + "." + label + ".example"
	}
}
