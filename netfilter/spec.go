// Package netfilter decides what a guest may reach. A [Spec] is what a user
// wrote, [Compile] turns it into a [Policy], and [Policy.Decide] is a pure and
// total function from a [Request] to a [Verdict]: no files, no clock, no
// network. The packages below it apply the verdicts: gateway is the guest's
// only neighbour on the network, names hands out the made-up addresses, audit
// writes down what was decided.
package netfilter

import (
	"net/netip"
	"time"
)

// Spec is the network as asked for. Rules keep where they came from, so that
// every verdict can be traced to a line of a file.
type Spec struct {
	Default string        `json:"default"` // "deny" or "allow"; anything else is an error of Compile, empty is deny
	Presets []string      `json:"presets,omitempty"`
	Rules   []Rule        `json:"rules,omitempty"`
	Ask     time.Duration `json:"ask,omitempty"`
}

// Action of a rule.
type Action string

// The two actions.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Rule is one line of an allow or deny list. Pattern holds all of the short form:
// "api.example.com", "*.example.org:443,8443", "github.com:22/tcp". Without ports
// a rule means 443 and 80 (TLS with that SNI, HTTP with that Host).
// A port with /tcp is raw: bytes are not looked at.
type Rule struct {
	Action  Action   `json:"action"`
	Pattern string   `json:"pattern"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Origin  Origin   `json:"origin"`
}

// Origin is where a rule stands.
type Origin struct {
	// Source is "project", "user", "runtime" (sbx policy allow/deny), "preset:NAME" or "default".
	Source string `json:"source"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Request is what the guest wants, as far as it is known at the time: a name to
// resolve (Port 0), a connection to a port of it.
type Request struct {
	Name string     // canonical: lower case, A-labels, no trailing dot
	Addr netip.Addr // set instead of Name when the guest used a literal address
	Port uint16     // 0 while only the name is asked
}

// Verdict is the answer. Rule is the rule that decided, nil for the default and
// the floor. Raw says that the deciding rule names this port as /tcp.
type Verdict struct {
	Allow  bool
	Raw    bool
	Rule   *Rule
	Reason string // one of the Reason constants, for people and the audit log
}
