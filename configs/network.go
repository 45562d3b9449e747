package configs

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

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
	spec.Hosts = b.hosts()
	spec.Secrets = b.secrets()
	spec.Ask = time.Duration(b.merged.Network.Ask)
	spec.Proxy = b.proxy()
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
	for _, name := range b.c.Agent.Presets {
		if !slices.Contains(chosen, name) {
			chosen = append(chosen, name)
			b.listed("network.presets", "agent "+b.c.Agent.Name, Position{}, name)
		}
	}
	return chosen
}

func (b *builder) rules(source string, action netfilter.Action, list []Rule) []netfilter.Rule {
	rules := make([]netfilter.Rule, 0, len(list))
	for _, r := range list {
		if r.Methods != nil && len(r.Methods) == 0 || r.Paths != nil && len(r.Paths) == 0 {
			b.rep.add(r.at, "rule for %q: an empty list of methods or paths: leave it out if all are meant", cut(r.Host))
		}
		rules = append(rules, netfilter.Rule{
			Action: action, Pattern: r.Host, Methods: r.Methods, Paths: r.Paths, MaxUpload: int64(r.MaxUpload), Origin: r.at.origin(source),
		})
		b.listed("network."+string(action), source, r.at, r.String())
		if action == netfilter.Allow {
			b.widen(source, WidenAllow, r.String(), r.at)
		}
	}
	return rules
}

// hosts gives the user's own rules for what the floor forbids. No project has such.
func (b *builder) hosts() []netfilter.HostRule {
	var hosts []netfilter.HostRule
	for _, h := range b.user.Network.Host {
		hosts = append(hosts, netfilter.HostRule{Pattern: h.Name, To: h.To, Origin: h.at.origin(sourceUser)})
		b.listed("network.host", sourceUser, h.at, strings.TrimSuffix(h.Name+" to "+h.To, " to "))
	}
	return hosts
}

// proxy is the user's own word as well: the variable, else the user's file. A password in it is shown to nobody.
func (b *builder) proxy() string {
	var v Value
	if text := b.environ["SBX_PROXY"]; text != "" {
		v = Value{Source: "env", text: text, pos: Position{File: "$SBX_PROXY"}}
	} else if s, ok := b.userScalars["network.proxy"]; ok {
		v = Value{Source: sourceUser, text: s.text, pos: s.at}
	}
	if v.text == "" {
		return ""
	}
	u, err := url.Parse(v.text)
	switch {
	case v.text == "direct", v.text == "environment":
		b.listed("network.proxy", v.Source, v.pos, v.text)
	case err != nil || !isProxy(u):
		// Without the line itself: it may hold a password.
		b.rep.problems = append(b.rep.problems, Problem{Position: v.pos, Text: "network.proxy must be environment, direct, or a URL with http, https or socks5"})
	default:
		b.listed("network.proxy", v.Source, v.pos, u.Redacted())
	}
	if v.text == "direct" {
		return ""
	}
	return v.text
}

func isProxy(u *url.URL) bool {
	return slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) && u.Hostname() != "" &&
		strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.Fragment == ""
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
		var secret *netfilter.SecretError
		if errors.As(e, &secret) {
			o := secret.Secret.Origin
			b.rep.add(Position{o.File, o.Line, o.Column}, "%v", e)
			continue
		}
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
