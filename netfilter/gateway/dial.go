package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
// A target is the user's own word about where the name may lead besides.
func (g *Gateway) resolve(ctx context.Context, name string, target netfilter.Target) ([]netip.Addr, error) {
	if target.Addr.IsValid() {
		return []netip.Addr{target.Addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.patience.resolve)
	defer cancel()
	answer, err := g.cfg.Resolver.LookupNetIP(ctx, "ip", name+".")
	if notFound(err) {
		return nil, errNoName
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", name, err)
	}
	if len(answer) == 0 || len(answer) > maxAnswer {
		return nil, fmt.Errorf("resolve %q: %d addresses: %w", name, len(answer), errNoAnswer)
	}
	host := g.cfg.HostNet()
	addrs := make([]netip.Addr, 0, len(answer))
	for _, addr := range answer {
		addr = plain(addr)
		if err := host.CheckTarget(addr, target); err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return interleave(addrs), nil
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
