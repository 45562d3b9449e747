package netfilter

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxRules bounds a policy, presets included. A name is decided by looking at
// the rules that match it, at worst all of them.
const maxRules = 1024

// Policy is a compiled [Spec]. It does not change and is safe for concurrent use;
// a changed Spec is compiled anew and the Policy swapped whole.
type Policy struct {
	allowAll bool
	ask      time.Duration
	hash     string
	secrets  []compiledSecret
	ranges   []*compiled             // those for literal addresses, in the order of before
	rules    []*compiled             // in the order of before, so that the order of writing decides nothing
	index    map[ruleKey][]*compiled // by kind and base: what matches a name is found by its suffixes
}

type ruleKey struct {
	kind kind
	base string
}

type compiled struct {
	rule   Rule
	pat    pattern
	ports  []portRange
	scope  scope
	target Target // of a HostRule
}

type compiledSecret struct {
	secret Secret
	hosts  []pattern
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

// SecretError is what is wrong with one secret's places; its Origin says where it stands.
type SecretError struct {
	Secret Secret
	Err    error
}

func (e *SecretError) Error() string { return fmt.Sprintf("secret %q: %v", e.Secret.Name, e.Err) }

func (e *SecretError) Unwrap() error { return e.Err }

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
	p := &Policy{index: map[ruleKey][]*compiled{}}
	var errs []error
	switch spec.Default {
	case "", string(Deny):
	case string(Allow):
		p.allowAll = true
	default:
		errs = append(errs, fmt.Errorf("network default %q: must be deny or allow", spec.Default))
	}
	if spec.Ask < 0 || spec.Ask > MaxAsk {
		errs = append(errs, fmt.Errorf("network ask %s: must be up to %s", spec.Ask, MaxAsk))
	}
	p.ask = spec.Ask
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
		p.rules = append(p.rules, &c)
	}
	errs = append(errs, p.compileRest(spec)...)
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	p.build()
	p.hash = hashOf(spec, rules)
	return p, p.lint(), nil
}

// MaxAsk is the longest that a connection may wait for an answer: clients give up before.
const MaxAsk = 10 * time.Minute

// compileRest adds what is not an allow or deny list: the user's hosts, and the places of secrets.
func (p *Policy) compileRest(spec Spec) (errs []error) {
	if len(spec.Hosts) > maxRules || len(spec.Secrets) > maxSecrets {
		return []error{fmt.Errorf("network: %d hosts and %d secrets, more than %d and %d", len(spec.Hosts), len(spec.Secrets), maxRules, maxSecrets)}
	}
	for _, h := range spec.Hosts {
		c, err := compileHost(h)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.rules = append(p.rules, &c)
	}
	for _, s := range spec.Secrets {
		c, err := compileSecret(s)
		if err != nil {
			errs = append(errs, &SecretError{s, err})
			continue
		}
		if slices.ContainsFunc(p.secrets, func(o compiledSecret) bool { return o.secret.Name == s.Name }) {
			errs = append(errs, &SecretError{s, errors.New("is there twice")})
			continue
		}
		p.secrets = append(p.secrets, c)
	}
	return errs
}

const (
	maxSecrets     = 64
	maxSecretHosts = 32
)

func compileSecret(s Secret) (compiledSecret, error) {
	c := compiledSecret{secret: s}
	if len(s.Hosts) == 0 || len(s.Hosts) > maxSecretHosts {
		return c, fmt.Errorf("must have 1 to %d hosts", maxSecretHosts)
	}
	if s.Header != "" && !isToken(s.Header) {
		return c, fmt.Errorf("header %q: is no name of a header", cutText(s.Header))
	}
	for _, host := range s.Hosts {
		pat, err := parsePattern(host)
		if err == nil && (pat.ports != nil || pat.kind == kindRange) {
			err = errors.New("must be a name without port, 443 is meant")
		}
		if err == nil {
			err = checkWidth(pat, false)
		}
		if err != nil {
			return c, fmt.Errorf("host %q: %w", cutText(host), err)
		}
		c.hosts = append(c.hosts, pat)
	}
	return c, nil
}

// covers tells whether the secret may be put into requests to a name.
func (c compiledSecret) covers(name string) bool {
	return slices.ContainsFunc(c.hosts, func(p pattern) bool { return p.matches(name) })
}

// SecretsFor gives the secrets that may be put into requests to a canonical name.
func (p *Policy) SecretsFor(name string) []Secret {
	var out []Secret
	for _, c := range p.secrets {
		if c.covers(name) {
			out = append(out, c.secret)
		}
	}
	return out
}

// AskFor is how long a connection may wait for an answer.
func (p *Policy) AskFor() time.Duration { return p.ask }

// Granted is the verdict on a connection that the user said yes to: on the web's ports what the web speaks,
// on others bytes as they are. A secret's host is read all the same.
func (p *Policy) Granted(name string, port uint16) Verdict {
	raw := !web(port)
	return Verdict{Allow: true, Raw: raw, Intercept: !raw && p.hasSecret(name), Reason: ReasonAnswer}
}

func web(port uint16) bool { return port == 443 || port == 80 }

// PatternFor is how a rule for exactly one port of a name is written; bytes are read on the web's ports.
func PatternFor(name string, port uint16) string {
	if !web(port) {
		return fmt.Sprintf("%s:%d/tcp", name, port)
	}
	return fmt.Sprintf("%s:%d", name, port)
}

// Hash identifies what is in force, 12 hexadecimal digits, whatever the order and the lines of writing.
// The way out of the host is no part of it: a proxy's address can hold a password.
func (p *Policy) Hash() string { return p.hash }

func hashOf(spec Spec, rules []Rule) string {
	var lines []string
	for _, r := range rules {
		r.Origin = Origin{Source: r.Origin.Source}
		lines = append(lines, marshal(r))
	}
	for _, h := range spec.Hosts {
		h.Origin = Origin{Source: h.Origin.Source}
		lines = append(lines, marshal(h))
	}
	for _, s := range spec.Secrets {
		s.Origin, s.Placeholder = Origin{Source: s.Origin.Source}, ""
		lines = append(lines, marshal(s))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(append(lines, string(defaultOf(spec)), spec.Ask.String()), "\n")))
	return hex.EncodeToString(sum[:6])
}

func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v) // strings and numbers marshal
	}
	return string(text)
}

func defaultOf(spec Spec) Action { return cmp.Or(Action(spec.Default), Deny) }

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
	if r.MaxUpload < 0 || r.MaxUpload > 0 && r.Action == Deny {
		return compiled{}, errors.New("max_upload: must be a size, of an allow rule")
	}
	scope, err := compileScope(r)
	if err != nil {
		return compiled{}, err
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
	c := compiled{rule: r, pat: pat, ports: pat.ports, scope: scope}
	if c.ports == nil {
		c.ports = allPorts()
		if r.Action == Allow {
			c.ports = webPorts()
		}
	}
	return c, c.checkRaw()
}

// checkRaw refuses what cannot be held to: requests on a port whose bytes are not looked at, and a name
// where there is none.
func (c compiled) checkRaw() error {
	raw := func(r portRange) bool { return r.raw }
	switch {
	case c.scope.narrow() && (slices.ContainsFunc(c.ports, raw) || c.pat.kind == kindRange):
		return errors.New("methods and paths: need a name and ports that are looked at, without /tcp")
	case c.pat.kind == kindRange && c.rule.Action == Allow && (c.pat.ports == nil || slices.ContainsFunc(c.ports, func(r portRange) bool { return !r.raw })):
		return errors.New("a range of addresses has no name to hold the bytes to: write each port as 22/tcp")
	}
	return nil
}

func (p *Policy) build() {
	slices.SortStableFunc(p.rules, (*compiled).before)
	for _, c := range p.rules {
		if c.pat.kind == kindRange {
			p.ranges = append(p.ranges, c)
			continue
		}
		k := ruleKey{c.pat.kind, c.pat.base}
		p.index[k] = append(p.index[k], c)
	}
}

// users tells whether the rule is the user's own word. A preset is not: the
// project's file can name one.
func (c *compiled) users() bool {
	return slices.Contains([]string{"user", "runtime", "answer"}, c.rule.Origin.Source)
}

// before is a total order, strongest first, for one name and port: the more
// specific pattern, deny before allow, read before raw. What remains only
// chooses which of two rules with the same effect is named as the reason.
func (c *compiled) before(o *compiled) int {
	return cmp.Or(
		-cmp.Compare(c.pat.specificity(), o.pat.specificity()),
		cmp.Compare(narrowRank(c.scope), narrowRank(o.scope)),
		cmp.Compare(actionRank(c.rule.Action), actionRank(o.rule.Action)),
		cmp.Compare(sourceRank(c.rule.Origin.Source), sourceRank(o.rule.Origin.Source)),
		strings.Compare(c.rule.Pattern, o.rule.Pattern),
		strings.Compare(c.rule.Origin.Source, o.rule.Origin.Source),
		strings.Compare(c.rule.Origin.File, o.rule.Origin.File),
		cmp.Compare(c.rule.Origin.Line, o.rule.Origin.Line),
		cmp.Compare(c.rule.Origin.Column, o.rule.Origin.Column),
		slices.Compare(c.rule.Methods, o.rule.Methods),
		slices.Compare(c.rule.Paths, o.rule.Paths),
		cmp.Compare(c.rule.MaxUpload, o.rule.MaxUpload),
		cmp.Compare(fmt.Sprint(c.target), fmt.Sprint(o.target)),
	)
}

func narrowRank(s scope) int {
	if s.narrow() {
		return 0
	}
	return 1
}

func actionRank(a Action) int {
	if a == Deny {
		return 0
	}
	return 1
}

func sourceRank(source string) int {
	if i := slices.Index([]string{"runtime", "answer", "user", "project"}, source); i >= 0 {
		return i
	}
	return 4
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
