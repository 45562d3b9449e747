package configs

import (
	"errors"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/netfilter"
)

// Sources of values and rules.
const (
	sourceProject = "project"
	sourceUser    = "user"
)

// network joins the user's lists and the project's. Who said what stays with
// each rule, because a project's allow never lifts a user's deny.
func (b *builder) network() {
	spec := netfilter.Spec{Default: b.networkDefault()}
	spec.Presets = b.presets()
	spec.Rules = append(spec.Rules, b.rules(sourceUser, netfilter.Deny, b.user.Network.Deny)...)
	spec.Rules = append(spec.Rules, b.rules(sourceUser, netfilter.Allow, b.user.Network.Allow)...)
	spec.Rules = append(spec.Rules, b.rules(sourceProject, netfilter.Deny, b.file.Network.Deny)...)
	spec.Rules = append(spec.Rules, b.rules(sourceProject, netfilter.Allow, b.file.Network.Allow)...)
	spec.Rules = append(spec.Rules, b.c.Agent.rules()...)
	_, warnings, err := netfilter.Compile(spec)
	b.compileErrors(err)
	for _, w := range warnings {
		at := Position{w.Rule.Origin.File, w.Rule.Origin.Line, w.Rule.Origin.Column}
		b.warn("%s: %s", at, w)
	}
	b.c.Network = spec
}

func (b *builder) networkDefault() string {
	v := b.where("network.default")
	switch netfilter.Action(v.text) {
	case netfilter.Allow:
		b.widen(v.Source, WidenDefault, "every public name may be reached", v.pos)
	case netfilter.Deny:
	default:
		b.rep.add(v.pos, "%q must be deny or allow, not %q", v.Key, cut(v.text))
		return string(netfilter.Deny)
	}
	return v.text
}

// presets gives the known ones of both files, each once.
func (b *builder) presets() []string {
	builtin, err := netfilter.Presets()
	if err != nil {
		b.rep.add(Position{}, "%v", err)
		return nil
	}
	var known, chosen []string
	for _, p := range builtin {
		known = append(known, p.Name)
	}
	for _, list := range []struct {
		source string
		names  []Text
	}{{sourceUser, b.user.Network.Presets}, {sourceProject, b.file.Network.Presets}} {
		for _, p := range list.names {
			if !slices.Contains(known, p.Text) {
				b.rep.add(p.at, "unknown network preset %q%s", cut(p.Text), suggest(p.Text, known))
				continue
			}
			if !slices.Contains(chosen, p.Text) {
				chosen = append(chosen, p.Text)
				b.listed("network.presets", list.source, p.at, p.Text)
			}
		}
	}
	return chosen
}

func (b *builder) rules(source string, action netfilter.Action, list []Rule) []netfilter.Rule {
	rules := make([]netfilter.Rule, 0, len(list))
	for _, r := range list {
		rules = append(rules, netfilter.Rule{
			Action: action, Pattern: r.Host, Methods: r.Methods, Paths: r.Paths, Origin: r.at.origin(source),
		})
		b.listed("network."+string(action), source, r.at, r.Host)
		if action == netfilter.Allow {
			b.widen(source, WidenAllow, r.Host, r.at)
		}
	}
	return rules
}

// compileErrors puts each fault of a rule where the rule stands.
func (b *builder) compileErrors(err error) {
	if err == nil {
		return
	}
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) {
		b.rep.add(Position{}, "%v", err)
		return
	}
	for _, e := range all.Unwrap() {
		var rule *netfilter.RuleError
		if !errors.As(e, &rule) {
			b.rep.add(Position{}, "%v", e)
			continue
		}
		o := rule.Rule.Origin
		if preset, ok := strings.CutPrefix(o.Source, "preset:"); ok {
			b.rep.add(b.presetAt(preset), "network preset %q: %v", preset, rule.Err)
			continue
		}
		b.rep.add(Position{o.File, o.Line, o.Column}, "%v", e)
	}
}

func (b *builder) presetAt(preset string) Position {
	for _, p := range slices.Concat(b.user.Network.Presets, b.file.Network.Presets) {
		if p.Text == preset {
			return p.at
		}
	}
	return Position{}
}
