// Package audit writes down what a guest asked of the network and what was
// decided: one JSON object per line, read by `sbx policy log`.
//
// Everything in an entry that a guest chose is hostile, so a reader gets it
// escaped (encoding/json escapes control characters, quotes and broken UTF-8;
// this package escapes DEL, the C1 controls and bidirectional overrides too), cut
// to a bounded length, and a bounded number of lines of it: entries that differ
// in nothing but time are merged with a count, and beyond a rate they are counted
// only. [Log.Write] works in memory under a short lock; one goroutine does the
// writing, so that a slow disk never holds a packet.
package audit

import (
	"time"
)

// Kind of an entry.
type Kind string

// The kinds.
const (
	DNS     Kind = "dns"     // a name was asked for
	Connect Kind = "connect" // a connection was decided
	Close   Kind = "close"   // an allowed connection ended
	Request Kind = "request" // an HTTP request was decided
	Ask     Kind = "ask"     // the user was asked; Verdict is the answer
	Secret  Kind = "secret"  // a placeholder turned up where it must not, or a value was put in
	Drop    Kind = "drop"    // a frame or packet was not let through
	Lost    Kind = "lost"    // entries that were counted and not written, see Entry.Count
)

// Verdicts.
const (
	VerdictAllow = "allow"
	VerdictDeny  = "deny"
)

// Entry is one line. Its field names are an interface: scripts read the log.
type Entry struct {
	Time       time.Time `json:"time"` // Write fills a zero one
	Sandbox    string    `json:"sandbox,omitempty"`
	Kind       Kind      `json:"kind"`
	Verdict    string    `json:"verdict"`        // allow or deny
	Name       string    `json:"name,omitempty"` // what the guest asked for
	Addr       string    `json:"addr,omitempty"` // the address that was dialled, or that the guest wanted
	Port       uint16    `json:"port,omitempty"`
	Proto      string    `json:"proto,omitempty"`  // tls, http, tcp, udp, icmp …
	Rule       string    `json:"rule,omitempty"`   // the pattern that decided
	Origin     string    `json:"origin,omitempty"` // where that rule stands: source, file and line
	Reason     string    `json:"reason,omitempty"` // a netfilter Reason, or a sentence of the gateway's
	Method     string    `json:"method,omitempty"` // of a request that was read
	Path       string    `json:"path,omitempty"`   // of a request that was read, without its query
	Policy     string    `json:"policy,omitempty"` // hash of the rules in force
	BytesUp    int64     `json:"bytes_up,omitempty"`
	BytesDown  int64     `json:"bytes_down,omitempty"`
	DurationMS int64     `json:"duration_ms,omitempty"`
	Count      int64     `json:"count,omitempty"` // how many such entries this line stands for; 0 is one
}

// Denied tells whether the entry is a refusal. Lost entries count as such when
// they were.
func (e Entry) Denied() bool { return e.Verdict == VerdictDeny }
