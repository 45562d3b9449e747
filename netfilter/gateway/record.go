package gateway

import (
	"container/list"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// Reasons of the gateway's own, beside netfilter's.
const (
	reasonUDP         = "udp"             // UDP does not leave the guest
	reasonGateway     = "gateway_service" // the gateway serves DNS and nothing else
	reasonUnknown     = "unknown_address" // an address that was not given out for a name
	reasonLimit       = "limit"           // too many at once
	reasonHandshake   = "handshake"       // the guest did not complete its own connection
	reasonBudget      = "upload_budget"   // more went up than the rule's max_upload
	reasonRevoked     = "revoked"         // the policy changed while the connection was open
	reasonProtocol    = "protocol"        // neither TLS nor HTTP, or the wrong one for the port
	reasonTLSName     = "tls_name"        // no SNI, another SNI, ECH
	reasonHTTP        = "http"            // a request that is not served
	reasonNoAuthority = "no_authority"    // the name needs interception and nothing can sign for it
	reasonClientTLS   = "client_tls"      // the guest's client broke off our own TLS
	reasonUpstream    = "upstream"        // the host could not resolve or reach it
	reasonType        = "dns_type"        // a DNS question for other than an address
	reasonQuery       = "dns_query"       // a malformed DNS query
)

// denials remembers the last refusals, each once, newest last. It is written on
// the packet path: adding takes constant time.
type denials struct {
	mu    sync.Mutex
	index map[denial]*list.Element
	order list.List // of *audit.Entry
}

// denial is what makes two refusals the same.
type denial struct {
	kind               audit.Kind
	name, addr, reason string
	port               uint16
}

func (d *denials) add(e audit.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.index == nil {
		d.index = make(map[denial]*list.Element)
	}
	key := denialOf(e)
	if el, ok := d.index[key]; ok {
		known := el.Value.(*audit.Entry)
		known.Time, known.Count = e.Time, known.Count+1
		d.order.MoveToBack(el)
		return
	}
	if oldest := d.order.Front(); d.order.Len() >= maxDenials {
		delete(d.index, denialOf(*d.order.Remove(oldest).(*audit.Entry)))
	}
	e.Count = 1
	d.index[key] = d.order.PushBack(&e)
}

func denialOf(e audit.Entry) denial { return denial{e.Kind, e.Name, e.Addr, e.Reason, e.Port} }

func (d *denials) since(t time.Time) []audit.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []audit.Entry
	for el := d.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*audit.Entry); e.Time.After(t) {
			out = append(out, *e)
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
	e.Time, e.Verdict, e.Policy = time.Now(), audit.VerdictDeny, g.policy.Load().Hash()
	g.denials.add(e)
	g.cfg.Audit.Write(e)
}

// allowed records a decision to let through.
func (g *Gateway) allowed(e audit.Entry) {
	e.Time, e.Verdict, e.Policy = time.Now(), audit.VerdictAllow, g.policy.Load().Hash()
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
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
