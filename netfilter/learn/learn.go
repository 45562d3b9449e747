// Package learn proposes allow rules from what a sandbox was refused.
//
// The log holds names that a guest chose, so a proposal is a question to the
// user and never a decision: names that are not canonical or local are left out,
// what somebody said no to is left out, and the list is bounded. Siblings become
// a wildcard only below a domain of one owner, and only when there are three of
// them: a wider rule must save reading, not thinking.
package learn

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// Bounds of what is looked at and given.
const (
	maxNames     = 4096
	maxProposals = 256
	minSiblings  = 3 // names that make a wildcard
	maxPorts     = 8 // of one name; a guest that scans ports needs no rule
)

// Proposal is an allow rule in its short form.
type Proposal struct {
	Pattern string `json:"pattern"`
	Why     string `json:"why"`   // for people; of canonical names alone
	Count   int64  `json:"count"` // how many refusals it would have spared
}

// wish is what was wanted of one name.
type wish struct {
	name  string
	ports map[uint16]bool // port, and whether it spoke TLS or HTTP
	count int64
}

// Propose gives the smallest sensible list for what the entries show, the most wanted first. Connections that the
// default let through count as wanted as well: that is how a list is learnt under "default: allow". What a rule of
// existing (nil: none) covers either way is left out.
func Propose(entries []audit.Entry, existing *netfilter.Policy) []Proposal {
	refused := answeredNo(entries)
	groups := map[string][]wish{}
	for _, w := range wishes(entries, existing, refused) {
		domain, err := publicsuffix.EffectiveTLDPlusOne(w.name)
		if err != nil {
			domain = w.name
		}
		key := domain + w.portText()
		groups[key] = append(groups[key], w)
	}
	var out []Proposal
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, merge(groups[key], refused)...)
	}
	slices.SortStableFunc(out, func(a, b Proposal) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), cmp.Compare(a.Pattern, b.Pattern))
	})
	return out[:min(len(out), maxProposals)]
}

// answeredNo gives the names that the user was asked about and did not allow.
func answeredNo(entries []audit.Entry) map[string]bool {
	no := map[string]bool{}
	for _, e := range entries {
		if e.Kind == audit.Ask {
			no[e.Name] = e.Denied() && e.Reason != netfilter.ReasonNoAnswer
		}
	}
	maps.DeleteFunc(no, func(_ string, denied bool) bool { return !denied })
	return no
}

// wishes gives one wish for each name, in the order of names.
func wishes(entries []audit.Entry, existing *netfilter.Policy, refused map[string]bool) []wish {
	byName := map[string]*wish{}
	for _, e := range entries {
		if !wanted(e) || refused[e.Name] || covered(existing, e) {
			continue
		}
		w := byName[e.Name]
		if w == nil {
			if len(byName) == maxNames {
				continue
			}
			w = &wish{name: e.Name, ports: map[uint16]bool{}}
			byName[e.Name] = w
		}
		w.count += max(1, e.Count)
		if e.Port != 0 && (w.ports[e.Port] || len(w.ports) < maxPorts) {
			w.ports[e.Port] = w.ports[e.Port] || e.Proto == "tls" || e.Proto == "http"
		}
	}
	var out []wish
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	return out
}

// wanted tells whether an entry shows a wish that a rule could fulfil: not a local name, nor one that somebody closed.
func wanted(e audit.Entry) bool {
	switch e.Kind {
	case audit.DNS, audit.Connect, audit.Ask:
	default:
		return false
	}
	switch e.Reason {
	case netfilter.ReasonNoRule, netfilter.ReasonPort, netfilter.ReasonDefaultAllow, netfilter.ReasonAnswer, netfilter.ReasonNoAnswer:
	default:
		return false
	}
	name, err := netfilter.Canonical(e.Name)
	if err != nil || name != e.Name {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	_, ok := compile(name)
	return ok
}

func covered(existing *netfilter.Policy, e audit.Entry) bool {
	return existing != nil && existing.Decide(netfilter.Request{Name: e.Name, Port: e.Port}).Rule != nil
}

// compile tells whether a pattern is a valid allow rule that nothing is to be said about.
func compile(pattern string) (clean, ok bool) {
	_, warnings, err := netfilter.Compile(netfilter.Spec{Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: pattern}}})
	return err == nil && len(warnings) == 0, err == nil
}

// portText is ":443", ":22/tcp", or nothing when no connection was seen: then the web's ports are meant. A port that is
// not the web's and did not speak its language is raw, or the rule would not help.
func (w wish) portText() string {
	var items []string
	for _, port := range slices.Sorted(maps.Keys(w.ports)) {
		text := strconv.Itoa(int(port))
		if !w.ports[port] && !slices.Contains([]uint16{80, 443, 8080, 8443}, port) {
			text += "/tcp"
		}
		items = append(items, text)
	}
	if len(items) == 0 {
		return ""
	}
	return ":" + strings.Join(items, ",")
}

// merge gives the proposals for names of one domain with the same ports: first children of one parent, then what is left.
func merge(group []wish, refused map[string]bool) []Proposal {
	byParent := map[string][]wish{}
	for _, w := range group {
		_, parent, _ := strings.Cut(w.name, ".")
		byParent[parent] = append(byParent[parent], w)
	}
	var out []Proposal
	var left []wish
	for _, parent := range slices.Sorted(maps.Keys(byParent)) {
		if p, ok := wildcard("*."+parent, byParent[parent], refused); ok {
			out = append(out, p)
			continue
		}
		left = append(left, byParent[parent]...)
	}
	if p, ok := wildcard("**."+commonParent(left), left, refused); ok {
		return append(out, p)
	}
	for _, w := range left {
		out = append(out, Proposal{w.name + w.portText(), fmt.Sprintf("wanted %s", times(w.count)), w.count})
	}
	return out
}

// wildcard is refused when it covers a stranger's names (see netfilter's warnings) or one that the user said no to.
func wildcard(pattern string, group []wish, refused map[string]bool) (Proposal, bool) {
	if len(group) < minSiblings {
		return Proposal{}, false
	}
	if clean, _ := compile(pattern); !clean {
		return Proposal{}, false
	}
	base := strings.TrimLeft(pattern, "*")
	for name := range refused {
		if strings.HasSuffix("."+name, base) {
			return Proposal{}, false
		}
	}
	p := Proposal{Pattern: pattern + group[0].portText()}
	names := make([]string, 0, minSiblings)
	for _, w := range group {
		p.Count += w.count
		if len(names) < minSiblings {
			names = append(names, w.name)
		}
	}
	p.Why = fmt.Sprintf("%d names, wanted %s: %s", len(group), times(p.Count), strings.Join(names, ", "))
	if len(group) > minSiblings {
		p.Why += " …"
	}
	return p, true
}

func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// commonParent is the longest name that all are or stand below. The group has one registrable domain, so there is one.
func commonParent(group []wish) string {
	if len(group) == 0 {
		return ""
	}
	common := group[0].name
	for _, w := range group[1:] {
		for common != "" && w.name != common && !strings.HasSuffix(w.name, "."+common) {
			_, common, _ = strings.Cut(common, ".")
		}
	}
	return common
}
