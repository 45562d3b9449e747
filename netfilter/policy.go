package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxRules bounds a policy, presets included. A name is decided by looking at
// the rules that match it, at worst all of them.
const maxRules = 1024

// Policy is a compiled [Spec]. It does not change and is safe for concurrent use;
// a changed Spec is compiled anew and the Policy swapped whole.
type Policy struct {
	allowAll bool
	rules    []compiled             // in the order of before, so that the order of writing decides nothing
	index    map[ruleKey][]compiled // by kind and base: what matches a name is found by its suffixes
}

type ruleKey struct {
	kind kind
	base string
}

type compiled struct {
	rule  Rule
	pat   pattern
	ports []portRange
}

// RuleError is what is wrong with one rule; its Origin says where it stands.
type RuleError struct {
	Rule Rule
	Err  error
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("%s rule %q: %v", e.Rule.Action, e.Rule.Pattern, e.Err)
}

func (e *RuleError) Unwrap() error { return e.Err }

// Warning is what deserves a look about a rule that is valid.
type Warning struct {
	Rule Rule
	Text string
}

func (w Warning) String() string {
	return fmt.Sprintf("%s rule %q: %s", w.Rule.Action, w.Rule.Pattern, w.Text)
}

// Compile checks a Spec and turns it into a Policy, with the rules of its
// presets. All that is wrong is reported at once, as a join of [*RuleError] and
// plain errors; a Spec with any error gives no Policy (the caller keeps its old
// one). An empty Spec is a Policy that allows nothing.
//
// An allow rule without ports means 443 and 80; a deny rule without ports all ports.
func Compile(spec Spec) (*Policy, []Warning, error) {
	p := &Policy{index: map[ruleKey][]compiled{}}
	var errs []error
	switch spec.Default {
	case "", string(Deny):
	case string(Allow):
		p.allowAll = true
	default:
		errs = append(errs, fmt.Errorf("network default %q: must be deny or allow", spec.Default))
	}
	if spec.Ask != 0 {
		errs = append(errs, errors.New("network ask: is not available in this version"))
	}
	rules, err := spec.expand()
	if err != nil {
		errs = append(errs, err)
	}
	if len(rules) > maxRules {
		return nil, nil, errors.Join(append(errs, fmt.Errorf("network: %d rules, more than %d", len(rules), maxRules))...)
	}
	for _, r := range rules {
		c, err := compileRule(r, p.allowAll)
		if err != nil {
			errs = append(errs, &RuleError{r, err})
			continue
		}
		p.rules = append(p.rules, c)
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	p.build()
	return p, p.lint(), nil
}

// expand gives the rules of the presets and the Spec's own.
func (s Spec) expand() ([]Rule, error) {
	if len(s.Presets) == 0 {
		return s.Rules, nil
	}
	presets, err := Presets()
	if err != nil {
		return nil, err
	}
	var rules []Rule
	var errs []error
	for _, name := range slices.Compact(slices.Sorted(slices.Values(s.Presets))) {
		i := slices.IndexFunc(presets, func(p Preset) bool { return p.Name == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("network preset %q: is unknown", name))
			continue
		}
		rules = append(rules, presets[i].Rules...)
	}
	return append(rules, s.Rules...), errors.Join(errs...)
}

func compileRule(r Rule, allowAll bool) (compiled, error) {
	if r.Action != Allow && r.Action != Deny {
		return compiled{}, fmt.Errorf("action %q: must be allow or deny", r.Action)
	}
	if len(r.Methods) > 0 {
		return compiled{}, fmt.Errorf("methods: %w", errInterception)
	}
	if len(r.Paths) > 0 {
		return compiled{}, fmt.Errorf("paths: %w", errInterception)
	}
	pat, err := parsePattern(r.Pattern)
	if err != nil {
		return compiled{}, err
	}
	if r.Action == Allow {
		if err := checkWidth(pat, allowAll); err != nil {
			return compiled{}, err
		}
	}
	c := compiled{rule: r, pat: pat, ports: pat.ports}
	if c.ports == nil {
		c.ports = allPorts()
		if r.Action == Allow {
			c.ports = webPorts()
		}
	}
	return c, nil
}

func (p *Policy) build() {
	slices.SortStableFunc(p.rules, compiled.before)
	for _, c := range p.rules {
		k := ruleKey{c.pat.kind, c.pat.base}
		p.index[k] = append(p.index[k], c)
	}
}

// users tells whether the rule is the user's own word. A preset is not: the
// project's file can name one.
func (c compiled) users() bool {
	return c.rule.Origin.Source == "user" || c.rule.Origin.Source == "runtime"
}

// before is a total order, strongest first, for one name and port: the more
// specific pattern, deny before allow, read before raw. What remains only
// chooses which of two rules with the same effect is named as the reason.
func (c compiled) before(o compiled) int {
	return cmp.Or(
		-cmp.Compare(c.pat.specificity(), o.pat.specificity()),
		cmp.Compare(actionRank(c.rule.Action), actionRank(o.rule.Action)),
		cmp.Compare(sourceRank(c.rule.Origin.Source), sourceRank(o.rule.Origin.Source)),
		strings.Compare(c.rule.Pattern, o.rule.Pattern),
		strings.Compare(c.rule.Origin.Source, o.rule.Origin.Source),
		strings.Compare(c.rule.Origin.File, o.rule.Origin.File),
		cmp.Compare(c.rule.Origin.Line, o.rule.Origin.Line),
		cmp.Compare(c.rule.Origin.Column, o.rule.Origin.Column),
	)
}

func actionRank(a Action) int {
	if a == Deny {
		return 0
	}
	return 1
}

func sourceRank(source string) int {
	if i := slices.Index([]string{"runtime", "user", "project"}, source); i >= 0 {
		return i
	}
	return 3
}

// Rules gives all rules, the presets' too, strongest first.
func (p *Policy) Rules() []Rule {
	rules := make([]Rule, len(p.rules))
	for i, c := range p.rules {
		rules[i] = c.rule
	}
	return rules
}

// Default is what happens to a name that no rule matches.
func (p *Policy) Default() Action {
	if p.allowAll {
		return Allow
	}
	return Deny
}
