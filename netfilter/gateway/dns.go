package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/names"
)

// serveUDP answers DNS over UDP. Questions that need the host's resolver are
// answered from goroutines, so that none holds up the next.
func (g *Gateway) serveUDP() {
	buf := make([]byte, maxQuery+1)
	for {
		n, from, err := g.dnsUDP.ReadFrom(buf)
		if err != nil {
			return
		}
		g.serveDatagram(buf[:n], func(answer []byte) {
			_, _ = g.dnsUDP.WriteTo(answer, from)
		})
	}
}

// serveDatagram answers one query. A panic over it costs its answer.
func (g *Gateway) serveDatagram(query []byte, reply func([]byte)) {
	defer g.recoverPanic("DNS query")
	q, answer := g.readQuery(query)
	if answer != nil {
		reply(answer)
	}
	if q == nil {
		return
	}
	if q.ask {
		reply(g.answerName(q, nil))
		return
	}
	g.lookups.find(g, q.name, func(err error) {
		defer g.recoverPanic("DNS answer") // in the lookup's goroutine, where others wait for theirs
		reply(g.answerName(q, err))
	})
}

// serveDNSConn answers DNS over TCP (RFC 7766), one query after the other, with the
// same policy.
func (g *Gateway) serveDNSConn(conn net.Conn) {
	buf := make([]byte, maxQuery)
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(buf))
		if size > len(buf) {
			return
		}
		if _, err := io.ReadFull(conn, buf[:size]); err != nil {
			return
		}
		answers := make(chan []byte, 1)
		g.serveDatagram(buf[:size], func(answer []byte) { answers <- answer })
		select {
		case answer := <-answers:
			framed := binary.BigEndian.AppendUint16(nil, uint16(len(answer)))
			if _, err := conn.Write(append(framed, answer...)); err != nil {
				return
			}
		case <-time.After(dnsIdle):
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// query is a question for the address of a name that the policy allows.
type query struct {
	msg  *dns.Msg
	name string // canonical
	ask  bool   // the user decides when a connection comes, and nobody is asked whether the name exists before
}

// readQuery parses and decides a query. It returns what is left to find out, or
// an answer, or neither for what deserves none.
func (g *Gateway) readQuery(b []byte) (*query, []byte) {
	if len(b) < 12 || b[2]&0x80 != 0 {
		return nil, nil // not a query: an answer here would make a reflector
	}
	msg, rcode := parseQuery(b)
	if rcode != dns.RcodeSuccess {
		g.denied(audit.Entry{Kind: audit.DNS, Reason: reasonQuery})
		return nil, pack(reply(msg, rcode))
	}
	question := msg.Question[0]
	if question.Qclass != dns.ClassINET || question.Qtype != dns.TypeA && question.Qtype != dns.TypeAAAA {
		g.denied(audit.Entry{Kind: audit.DNS, Name: printable(question.Name), Proto: typeName(question.Qtype), Reason: reasonType})
		return nil, pack(reply(msg, dns.RcodeRefused))
	}
	name, err := netfilter.Canonical(question.Name)
	if err != nil {
		g.denied(audit.Entry{Kind: audit.DNS, Name: printable(question.Name), Reason: netfilter.ReasonBadName})
		return nil, pack(reply(msg, dns.RcodeNameError))
	}
	v := g.decideName(name)
	if v.Ask && g.asks.names.Allow() {
		return &query{msg, name, true}, nil
	}
	if !v.Allow {
		g.denied(by(audit.Entry{Kind: audit.DNS, Name: name}, v))
		return nil, pack(explain(reply(msg, dns.RcodeNameError), hint(name, v)))
	}
	return &query{msg, name, false}, nil
}

// hint says what would allow a name, if anything would.
func hint(name string, v netfilter.Verdict) string {
	switch v.Reason {
	case netfilter.ReasonLocalName:
		return "sbx: a name of the local network: no rule allows it"
	case netfilter.ReasonDenied:
		return "sbx: denied by the rule " + printable(v.Rule.Pattern)
	}
	return "sbx: not allowed: sbx policy allow " + name
}

// parseQuery parses one question with at most an OPT record. What does not parse
// is answered with the query's ID and FORMERR.
func parseQuery(b []byte) (*dns.Msg, int) {
	bad := &dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(b), Opcode: int(b[2]>>3) & 0xf}}
	count := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	if bad.Opcode != dns.OpcodeQuery {
		return bad, dns.RcodeNotImplemented
	}
	if len(b) > maxQuery || count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 {
		return bad, dns.RcodeFormatError
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(b); err != nil || len(msg.Question) != 1 {
		return bad, dns.RcodeFormatError
	}
	if len(msg.Extra) == 1 && msg.IsEdns0() == nil {
		return bad, dns.RcodeFormatError
	}
	return msg, dns.RcodeSuccess
}

// answerName answers an allowed question once it is known whether the name
// exists. AAAA is answered empty: the guest has no IPv6.
func (g *Gateway) answerName(q *query, err error) []byte {
	entry := audit.Entry{Kind: audit.DNS, Name: q.name}
	var class *netfilter.AddressError
	switch {
	case errors.As(err, &class):
		entry.Addr, entry.Reason = class.Addr.String(), netfilter.ReasonAddressClass
		g.denied(entry)
		return pack(explain(reply(q.msg, dns.RcodeNameError), "sbx: the name leads to an address that no guest may reach"))
	case errors.Is(err, errNoName):
		return pack(reply(q.msg, dns.RcodeNameError))
	case err != nil:
		entry.Reason = reasonUpstream + ": " + printable(err.Error())
		g.denied(entry)
		return pack(explain(reply(q.msg, dns.RcodeServerFailure), "sbx: the host cannot resolve the name"))
	}
	answer := reply(q.msg, dns.RcodeSuccess)
	if q.msg.Question[0].Qtype == dns.TypeAAAA {
		return pack(answer)
	}
	v := g.decideName(q.name)
	if !v.Allow && !v.Ask {
		return pack(reply(q.msg, dns.RcodeNameError))
	}
	addr, err := g.names.Assign(q.name)
	if err != nil {
		entry.Reason = reasonLimit
		g.denied(entry)
		return pack(explain(reply(q.msg, dns.RcodeServerFailure), "sbx: "+err.Error()))
	}
	entry.Addr = addr.String()
	if v.Allow {
		g.allowed(by(entry, v))
	}
	answer.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{
			Name: q.msg.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET,
			Ttl: uint32(names.TTL / time.Second),
		},
		A: net.IP(addr.AsSlice()),
	}}
	return pack(answer)
}

// reply begins an answer; it has an OPT record if the query had.
func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(maxQuery, false)
	}
	return m
}

// explain adds why (RFC 8914), for clients that can hear it.
func explain(m *dns.Msg, text string) *dns.Msg {
	if opt := m.IsEdns0(); opt != nil {
		code := dns.ExtendedErrorCodeFiltered
		if m.Rcode == dns.RcodeServerFailure {
			code = dns.ExtendedErrorCodeNetworkError
		}
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	return m
}

// pack gives the wire form; an answer that has none is not sent.
func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

func typeName(t uint16) string { return dns.Type(t).String() }
