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
	Default string     `json:"default"` // "deny" or "allow"; anything else is an error of Compile, empty is deny
	Presets []string   `json:"presets,omitempty"`
	Rules   []Rule     `json:"rules,omitempty"`
	Hosts   []HostRule `json:"hosts,omitempty"`   // from the user's own file alone
	Secrets []Secret   `json:"secrets,omitempty"` // names and places, never values
	// Ask is how long a connection that no rule covers waits for an answer; 0 refuses at once.
	Ask time.Duration `json:"ask,omitempty"`
	// Proxy is how the host itself reaches the outside: "" directly, "environment" as the user's
	// HTTPS_PROXY, ALL_PROXY and NO_PROXY say, else a URL (http, https, socks5). From the user's own
	// file or environment alone; a URL with a password is in the sandbox's state, mode 0600.
	Proxy string `json:"proxy,omitempty"`
}

// Action of a rule.
type Action string

// The two actions.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Rule is one line of an allow or deny list. Pattern holds all of the short form:
// "api.example.com", "*.example.org:443,8443", "github.com:22/tcp", or a range of public
// addresses "140.82.112.0/20:22/tcp". Without ports a rule means 443 and 80 (TLS with that
// SNI, HTTP with that Host). A port with /tcp is raw: bytes are not looked at.
//
// Methods and Paths hold for requests; a name that has such a rule is intercepted on its TLS
// ports. A path pattern is absolute, "*" is any text within a segment, "**" a segment of its
// own that stands for any number of them.
type Rule struct {
	Action    Action   `json:"action"`
	Pattern   string   `json:"pattern"`
	Methods   []string `json:"methods,omitempty"`
	Paths     []string `json:"paths,omitempty"`
	MaxUpload int64    `json:"max_upload,omitempty"` // bytes that may go up to each host under this rule while the sandbox runs; 0 is no limit
	Origin    Origin   `json:"origin"`
}

// HostRule lets a name lead where the floor forbids: to a service of the host or into a private
// network. It is an allow rule for Pattern as well, where no rule for the same pattern says which
// requests are allowed. To is an address with port ("127.0.0.1:5000",
// dialled whatever port of the pattern the guest asked for), an address ("192.168.1.7", with the
// guest's port), or a range ("10.0.0.0/8": the name is resolved, and its addresses may lie there).
type HostRule struct {
	Pattern string `json:"pattern"`
	To      string `json:"to"`
	Origin  Origin `json:"origin"`
}

// Secret is where a value that the guest never has is put into requests. Hosts are patterns
// without ports (443 over intercepted TLS is meant). Header is the one header that may hold the
// placeholder; empty: any header. The guest's variable Name holds Placeholder.
type Secret struct {
	Name        string   `json:"name"`
	Hosts       []string `json:"hosts"`
	Header      string   `json:"header,omitempty"`
	Placeholder string   `json:"placeholder,omitempty"` // made by the supervisor, once for each sandbox
	Origin      Origin   `json:"origin"`
}

// Origin is where a rule stands.
type Origin struct {
	// Source is "project", "user", "runtime" (sbx policy allow/deny), "answer" (to a question, while the
	// sandbox runs), "preset:NAME", "agent:NAME" or "default".
	Source string `json:"source"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Request is what the guest wants, as far as it is known at the time: a name to
// resolve (Port 0), a connection to a port of it (Method empty), an HTTP request.
type Request struct {
	Name   string     // canonical: lower case, A-labels, no trailing dot
	Addr   netip.Addr // set instead of Name when the guest used a literal address
	Port   uint16     // 0 while only the name is asked
	Method string     // of an HTTP request, as sent
	Path   string     // of an HTTP request, without query, as sent (escaped)
}

// Verdict is the answer. Rule is the rule that decided, nil for the default and
// the floor.
type Verdict struct {
	Allow     bool
	Raw       bool   // the deciding rule names this port as /tcp
	Intercept bool   // requests over TLS on this port have to be read: by a method or path rule, or a secret
	Ask       bool   // denied because no rule covers it, and the user may be asked
	Target    Target // where the connection leads instead of the public internet
	MaxUpload int64  // of the deciding rule, 0 is no limit
	Rule      *Rule  // of the policy, not to be changed
	Reason    string // one of the Reason constants, for people and the audit log
}

// Target is where a HostRule leads. The zero Target is the public internet, with the floor.
type Target struct {
	Addr   netip.Addr   // dialled without asking a resolver
	Port   uint16       // 0: the port that the guest asked for
	Prefix netip.Prefix // addresses of the answer may lie here, beside public ones
}
