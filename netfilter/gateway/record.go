package gateway

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// Reasons of the gateway's own, beside netfilter's.
const (
	reasonUDP       = "udp"             // UDP does not leave the guest
	reasonGateway   = "gateway_service" // the gateway serves DNS and nothing else
	reasonUnknown   = "unknown_address" // an address that was not given out for a name
	reasonLimit     = "limit"           // too many at once
	reasonHandshake = "handshake"       // the guest did not complete its own connection
	reasonRevoked   = "revoked"         // the policy changed while the connection was open
	reasonProtocol  = "protocol"        // neither TLS nor HTTP, or the wrong one for the port
	reasonTLSName   = "tls_name"        // no SNI, another SNI, ECH
	reasonHTTP      = "http"            // a request that is not served
	reasonUpstream  = "upstream"        // the host could not resolve or reach it
	reasonType      = "dns_type"        // a DNS question for other than an address
	reasonQuery     = "dns_query"       // a malformed DNS query
)

// denials remembers the last refusals, each once, newest last. What a guest
// chose in them is bounded by what a name and an address are.
type denials struct {
	mu   sync.Mutex
	list []audit.Entry
}

func (d *denials) add(e audit.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := func(o audit.Entry) bool {
		return o.Kind == e.Kind && o.Name == e.Name && o.Addr == e.Addr && o.Port == e.Port && o.Reason == e.Reason
	}
	e.Count = 1
	if i := slices.IndexFunc(d.list, same); i >= 0 {
		e.Count = d.list[i].Count + 1
		d.list = slices.Delete(d.list, i, i+1)
	} else if len(d.list) >= maxDenials {
		d.list = slices.Delete(d.list, 0, 1)
	}
	d.list = append(d.list, e)
}

func (d *denials) since(t time.Time) []audit.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []audit.Entry
	for _, e := range d.list {
		if e.Time.After(t) {
			out = append(out, e)
		}
	}
	return out
}

// Denials lists what was refused after since, equal refusals once with a count,
// oldest first; only the last 256 are kept. Names and reasons that a guest chose
// hold no control characters.
func (g *Gateway) Denials(since time.Time) []audit.Entry { return g.denials.since(since) }

// denied records a refusal.
func (g *Gateway) denied(e audit.Entry) {
	e.Time, e.Verdict = time.Now(), audit.VerdictDeny
	g.denials.add(e)
	g.cfg.Audit.Write(e)
}

// allowed records a decision to let through.
func (g *Gateway) allowed(e audit.Entry) {
	e.Time, e.Verdict = time.Now(), audit.VerdictAllow
	g.cfg.Audit.Write(e)
}

// by adds what decided to an entry.
func by(e audit.Entry, v netfilter.Verdict) audit.Entry {
	e.Reason = v.Reason
	if v.Rule == nil {
		return e
	}
	e.Rule, e.Origin = v.Rule.Pattern, v.Rule.Origin.Source
	if v.Rule.Origin.File != "" {
		e.Origin += fmt.Sprintf(" %s:%d", v.Rule.Origin.File, v.Rule.Origin.Line)
	}
	return e
}

// printable makes a guest's text one that can be shown.
func printable(s string) string {
	q := fmt.Sprintf("%+.120q", s)
	return q[1 : len(q)-1]
}
