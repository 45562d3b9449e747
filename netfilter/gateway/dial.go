package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

var (
	errNoName   = errors.New("the name does not exist")
	errTooMany  = errors.New("too many connections are waiting for a server")
	errNoAnswer = errors.New("the answer has no usable address")
)

// upstream is a connection to a server, with the address that was checked. The address is zero where a
// proxy chose it.
type upstream struct {
	net.Conn
	addr netip.AddrPort
}

// rawOf is a server's socket; nil where bytes come from anything else, or through a buffer or TLS.
func rawOf(src io.Reader) syscall.RawConn {
	for {
		switch s := src.(type) {
		case upstream:
			src = s.Conn
		case metered:
			src = s.Conn
		case *net.TCPConn:
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		default:
			return nil
		}
	}
}

// dialled is the address for the log, empty where nobody here knows it.
func (u upstream) dialled() string {
	if !u.addr.IsValid() {
		return ""
	}
	return u.addr.Addr().String()
}

// CloseWrite ends our side of the connection, or all of it if it has no sides.
func (u upstream) CloseWrite() error {
	if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return u.Close()
}

// resolve asks the host for a name and checks all of the answer: one address that
// may not be dialled refuses it whole, because an honest name has none and a
// rebinding one would be tried until it lands.
// What the resolver said a moment ago is checked and used again, so that the connections of one page or one install
// do not wait for it one by one.
// A target is the user's own word about where the name may lead besides.
func (g *Gateway) resolve(ctx context.Context, name string, target netfilter.Target) ([]netip.Addr, error) {
	if target.Addr.IsValid() {
		return []netip.Addr{target.Addr}, nil
	}
	host := g.cfg.HostNet()
	answer, known := g.lookups.recent(name, g.cfg.patience.answer)
	if !known {
		var err error
		if answer, err = g.lookUp(ctx, name, host); err != nil {
			return nil, err
		}
	}
	for _, addr := range answer {
		if err := host.CheckTarget(addr, target); err != nil {
			g.lookups.forget(name)
			return nil, err
		}
	}
	if !known {
		g.lookups.remember(name, answer)
	}
	return interleave(answer), nil
}

// lookUp asks the host's resolver.
func (g *Gateway) lookUp(ctx context.Context, name string, host netfilter.HostNet) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.patience.resolve)
	defer cancel()
	answer, err := g.cfg.Resolver.LookupNetIP(ctx, families(host), name+".")
	if notFound(err) {
		return nil, errNoName
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", name, err)
	}
	if len(answer) == 0 || len(answer) > maxAnswer {
		return nil, fmt.Errorf("resolve %q: %d addresses: %w", name, len(answer), errNoAnswer)
	}
	addrs := make([]netip.Addr, 0, len(answer))
	for _, addr := range answer {
		addrs = append(addrs, plain(addr))
	}
	return addrs, nil
}

// families are those of the addresses to ask for: a host without an IPv6 address of its own could not dial one
// (RFC 3493 section 6.1, AI_ADDRCONFIG), and its resolver has half the work.
func families(host netfilter.HostNet) string {
	if slices.ContainsFunc(host.Addrs, func(a netip.Addr) bool { return a.Is6() && !a.IsLoopback() && !a.IsLinkLocalUnicast() }) {
		return "ip"
	}
	return "ip4"
}

// plain undoes the one mapping that resolvers themselves make: net.Resolver
// gives IPv4 addresses in 16 bytes. A zone stays, and is refused by its class.
func plain(addr netip.Addr) netip.Addr {
	if addr.Is4In6() && addr.Zone() == "" {
		return addr.Unmap()
	}
	return addr
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// interleave orders addresses for dialling: families in turn (RFC 8305 section 4),
// IPv4 first because hosts without IPv6 are more common than the reverse.
func interleave(addrs []netip.Addr) []netip.Addr {
	var four, six, out []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	for i := 0; i < len(addrs) && len(out) < maxAddrs; i++ {
		if i < len(four) {
			out = append(out, four[i])
		}
		if i < len(six) && len(out) < maxAddrs {
			out = append(out, six[i])
		}
	}
	return out
}

// dial resolves the flow's name and connects to it. The connection is closed when
// the flow ends.
func (g *Gateway) dial(f *flow) (upstream, error) {
	if !g.dials.enter() {
		return upstream{}, errTooMany
	}
	defer g.dials.leave()
	if !g.flows.startDial(f.name) {
		return upstream{}, errTooMany
	}
	defer g.flows.endDial(f.name)
	proxied := g.proxied(f.verdict.Target, f.host(), f.port)
	addrs, err := g.addresses(f)
	if err != nil && (!proxied || !errors.Is(err, errNoName)) {
		return upstream{}, err
	}
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	var up upstream
	if proxied {
		up.Conn, err = g.cfg.Proxy.DialName(ctx, f.host(), f.port)
	} else {
		up, err = g.dialAny(ctx, addrs, cmp.Or(f.verdict.Target.Port, f.port))
	}
	if err != nil {
		g.lookups.forget(f.name) // the server may have moved
		return upstream{}, err
	}
	return upstream{metered{up, f}, up.addr}, nil
}

// proxied tells whether a name or address is reached through the user's proxy. Where a host rule leads is
// the host or its own network, which no proxy stands before. The host may not know the names that lead
// outside there: a name that it does not find is the proxy's to find, one with a forbidden address is refused.
func (g *Gateway) proxied(target netfilter.Target, host string, port uint16) bool {
	return target == netfilter.Target{} && g.cfg.Proxy.Covers(host, port)
}

// addresses are those that may be dialled for a flow: of its name, or the literal one that a rule for ranges
// allowed.
func (g *Gateway) addresses(f *flow) ([]netip.Addr, error) {
	if !f.addr.IsValid() {
		return g.resolve(f.ctx, f.name, f.verdict.Target)
	}
	if err := g.cfg.HostNet().CheckTarget(f.addr, f.verdict.Target); err != nil {
		return nil, err
	}
	return []netip.Addr{f.addr}, nil
}

type dialed struct {
	upstream
	err error
}

// dialAny tries the addresses one after another, without waiting long for each
// (RFC 8305). It returns when all attempts have ended or been cancelled.
func (g *Gateway) dialAny(ctx context.Context, addrs []netip.Addr, port uint16) (upstream, error) {
	if len(addrs) == 1 { // as for host rules and literal addresses: nothing to try beside it
		d := g.dialOne(ctx, netip.AddrPortFrom(addrs[0], port))
		return d.upstream, d.err
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialed)
	next, running := 0, 0
	var winner *upstream
	err := errNoAnswer
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next < len(addrs) || running > 0 {
		select {
		case <-timer.C:
			if next < len(addrs) && winner == nil {
				to := netip.AddrPortFrom(addrs[next], port)
				next, running = next+1, running+1
				go func() { results <- g.dialOne(ctx, to) }()
				timer.Reset(fallbackDelay)
			}
		case r := <-results:
			running--
			switch {
			case r.err == nil && winner == nil:
				winner, next = &r.upstream, len(addrs)
				cancel()
			case r.err == nil:
				r.Close()
			default:
				err = r.err
				timer.Reset(0)
			}
		}
	}
	cancel()
	if winner != nil {
		return *winner, nil
	}
	return upstream{}, err
}

func (g *Gateway) dialOne(ctx context.Context, to netip.AddrPort) dialed {
	conn, err := g.cfg.Dialer.DialContext(ctx, "tcp", to.String())
	return dialed{upstream{conn, to}, err}
}

// connected records an allowed connection.
func (g *Gateway) connected(f *flow, proto string, up upstream) {
	f.peer.Store(&peer{up.dialled(), proto})
	e := by(f.entry(proto, ""), f.verdict)
	e.Addr = cmp.Or(up.dialled(), e.Addr)
	g.allowed(e)
}

// ended records the end of an allowed connection.
func (g *Gateway) ended(f *flow, proto string, up upstream) {
	e := f.entry(proto, "")
	e.Kind, e.Verdict, e.Time = audit.Close, audit.VerdictAllow, time.Now()
	e.Addr = cmp.Or(up.dialled(), e.Addr)
	e.BytesUp, e.BytesDown = f.up.Load(), f.down.Load()
	e.DurationMS = time.Since(f.started).Milliseconds()
	switch cause := context.Cause(f.ctx); {
	case errors.Is(cause, errRevoked):
		e.Reason = reasonRevoked
	case errors.Is(cause, errBudget):
		e.Reason = reasonBudget
		g.denied(audit.Entry{Kind: audit.Connect, Name: f.name, Addr: e.Addr, Port: f.port, Proto: proto, Reason: reasonBudget})
	}
	e.Policy = g.policy.Load().Hash()
	g.cfg.Audit.Write(e)
}
