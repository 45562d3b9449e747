package netfilter

import (
	"fmt"
	"slices"
	"strings"
)

// lint gives the warnings of a policy: rules that can never decide anything, and
// allow rules that reach a name which strangers share. The presets and agents were
// looked at when they were written and are left alone.
func (p *Policy) lint() []Warning {
	var out []Warning
	for _, c := range p.rules {
		if source := c.rule.Origin.Source; strings.HasPrefix(source, "preset:") || strings.HasPrefix(source, "agent:") {
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
	return append(out, p.lintSecrets()...)
}

// lintSecrets warns of places that a secret can never be put into.
func (p *Policy) lintSecrets() []Warning {
	var out []Warning
	for _, c := range p.secrets {
		for i, host := range c.hosts {
			rule := Rule{Action: Allow, Pattern: c.secret.Hosts[i], Origin: c.secret.Origin}
			v := p.Decide(Request{Name: host.typical(), Port: 443})
			switch {
			case !v.Allow:
				out = append(out, Warning{rule, fmt.Sprintf("no rule allows this host of the secret %s", c.secret.Name)})
			case v.Raw:
				out = append(out, Warning{rule, fmt.Sprintf("the rule %q passes bytes unread, so that the secret %s is not put in", v.Rule.Pattern, c.secret.Name)})
			}
		}
	}
	return out
}

// shadowedBy gives the rule that decides everywhere in the place of c, if c
// decides nowhere. It asks about a name that is typical for the pattern, one that
// no narrower pattern was written for, at every port where the answer can change.
func (p *Policy) shadowedBy(c *compiled) (Rule, bool) {
	if c.scope.narrow() || c.pat.kind == kindRange {
		return Rule{}, false // which requests and addresses there are is not known
	}
	matching := p.matching(c.pat.typical())
	// Requests that no narrow rule was written for are what rules for all of them decide.
	matching = slices.DeleteFunc(matching, func(o *compiled) bool { return o.scope.narrow() })
	var by *Rule
	for _, port := range breakpoints(matching) {
		if _, ok := find(c.ports, port); !ok {
			continue
		}
		v := p.decidePort(matching, Request{Port: port})
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
