// Package gateway is a guest's only neighbour on the network, and its only way out:
// a gVisor stack (gvisor.dev/gvisor/pkg/tcpip) at the other end of QEMU's
// "-netdev stream" socket. One gateway serves one sandbox; nothing is shared
// between two of them, and nothing is routed.
//
//	frame ─▶ frameFilter ─▶ gVisor ─▶ UDP/TCP 53 at the gateway: dns.go
//	                              ├─▶ TCP to a made-up address: tcp.go, by its name
//	                              └─▶ anything else: RST or ICMP unreachable
//
// Names are the unit. The DNS server asks the policy, then the host's resolver
// whether the name exists, and answers with an address made up for the name
// (package names). So every connection carries a name, whatever its protocol. A
// connection is decided by name and port; on a port that is not raw, the guest's
// first bytes (package intercept) must name the same host before anything is
// dialled. The name is then resolved, every address of the answer (of the last second's,
// if there is one) is checked (netfilter.HostNet), and a checked literal address is dialled.
//
// Everything a guest can make grow has a bound in this package: limits.go.
// A gateway whose link ends is done; if it dies, the guest has no network.
package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/intercept"
	"github.com/sbx-vm/sbx/netfilter/names"
	proxy "github.com/sbx-vm/sbx/netfilter/upstream"
)

// Resolver finds the addresses of a name on the host. [net.Resolver] is one; on
// macOS it must be the system's, or VPN split DNS breaks. It must honour ctx
// and be safe for concurrent use. The name that is asked ends in a dot, so that no
// search list applies. A name that does not exist is a [net.DNSError] with IsNotFound.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer opens connections to literal, checked addresses. [net.Dialer] is one. It
// must honour ctx, be safe for concurrent use, and ignore proxy settings.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config is what a gateway needs. Required are all fields down to Dialer but MTU.
type Config struct {
	Link     net.Conn         // our end of QEMU's stream; Close and the gateway's end close it
	MAC      net.HardwareAddr // the guest's
	Guest    netip.Prefix     // the guest's address in its subnet
	Gateway  netip.Addr       // ours, in the same subnet
	MTU      int              // of the guest's interface; 0 is DefaultMTU
	Policy   *netfilter.Policy
	HostNet  func() netfilter.HostNet // asked before each dial
	Resolver Resolver
	Dialer   Dialer
	Audit    *audit.Log // nil keeps no log
	// Authority signs for the names that are intercepted; nil refuses these names.
	Authority *intercept.Authority
	Secrets   *intercept.Vault // see SetSecrets
	// Roots verify the servers of intercepted names; nil is the host's own store.
	Roots *x509.CertPool
	// Proxy is the user's way out, nil is none. It is dialled whatever its address is, and finds the
	// addresses of names itself.
	Proxy *proxy.Proxy
	Log   *slog.Logger

	patience patience // shortened by tests
}

// Gateway serves one guest until its link ends or Close is called.
type Gateway struct {
	cfg    Config
	log    *slog.Logger
	link   *link
	stack  *stack.Stack
	names  *names.Table
	policy atomic.Pointer[netfilter.Policy]
	vault  atomic.Pointer[intercept.Vault]

	flows    flows
	half     halfOpen
	lookups  lookups
	denials  denials
	asks     asks
	budgets  budgets
	copies   copies
	dials    gauge
	dnsConns gauge
	dnsUDP   *gonet.UDPConn

	ctx    context.Context
	cancel context.CancelFunc
	work   group
	done   chan struct{}
	close  sync.Once
}

// Start checks the configuration and serves the link in the background. ctx bounds the
// gateway's life. After an error the caller closes cfg.Link; closing it twice does no harm.
func Start(ctx context.Context, cfg Config) (*Gateway, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	table, err := names.New(names.DefaultPrefix(), names.DefaultMax, time.Now)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{cfg: cfg, log: cfg.Log, names: table, done: make(chan struct{})}
	g.policy.Store(cfg.Policy)
	g.vault.Store(cfg.Secrets)
	g.dials.limit, g.dnsConns.limit = maxDials, maxDNSConns
	g.half.limit = maxHalfOpen
	g.lookups, g.asks = newLookups(), newAsks()
	g.link = newLink(cfg.Link, newFrameFilter(&cfg), g.log)
	if err := g.startStack(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.work.run(g.serveUDP)
	g.work.run(func() { g.serveLink("send", g.link.send) })
	g.work.run(func() { g.serveLink("receive", g.link.receive) })
	context.AfterFunc(g.ctx, g.shutdown)
	return g, nil
}

func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.patience == (patience{}) {
		c.patience = patience{hello: helloTimeout, resolve: resolveTimeout, answer: answerFor}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Link == nil || c.Policy == nil || c.HostNet == nil || c.Resolver == nil || c.Dialer == nil:
		return errors.New("link, policy, host network, resolver and dialer are needed")
	case len(c.MAC) != 6:
		return fmt.Errorf("MAC %q has not six bytes", c.MAC)
	case !c.Guest.Addr().Is4() || !c.Guest.Contains(c.Gateway) || c.Gateway == c.Guest.Addr():
		return fmt.Errorf("gateway %s must be another IPv4 address of the guest's network %s", c.Gateway, c.Guest)
	case c.MTU < 576 || c.MTU > mtuMax:
		return fmt.Errorf("MTU %d must be 576 to %d", c.MTU, mtuMax)
	}
	return nil
}

// serveLink runs one direction of the link; when either ends, the gateway does.
func (g *Gateway) serveLink(direction string, serve func() error) {
	defer g.cancel()
	if err := serve(); err != nil && g.ctx.Err() == nil {
		g.log.Error("the guest's link broke", "direction", direction, "error", err)
	}
}

// SetPolicy applies another policy at once: the next name, connection and request
// is decided by it, and connections that it would not allow are reset.
func (g *Gateway) SetPolicy(p *netfilter.Policy) {
	g.policy.Store(p)
	g.names.Forget(func(name string) bool {
		v := p.Decide(netfilter.Request{Name: name})
		return v.Allow || v.Ask
	})
	g.flows.revoke(p, g.setBudget)
	g.asks.redecide()
}

// SetSecrets replaces the values that are put into requests, from the next request on.
func (g *Gateway) SetSecrets(v *intercept.Vault) { g.vault.Store(v) }

// Policy is the one in force.
func (g *Gateway) Policy() *netfilter.Policy { return g.policy.Load() }

// Done is closed when nothing of the gateway runs any more.
func (g *Gateway) Done() <-chan struct{} { return g.done }

// Close ends all connections and the link, and waits for all of it.
func (g *Gateway) Close() error {
	g.cancel()
	<-g.done
	return nil
}

// shutdown runs once, after g.ctx ended for whatever reason.
func (g *Gateway) shutdown() {
	g.close.Do(func() {
		g.flows.endAll()
		_ = g.dnsUDP.Close()
		g.link.Close()
		g.half.abortAll()
		g.work.wait()
		g.stack.Destroy()
		close(g.done)
	})
}
