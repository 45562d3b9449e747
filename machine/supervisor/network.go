package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/gateway"
	"github.com/sbx-vm/sbx/netfilter/upstream"
)

func (s *Supervisor) startGateway(ctx context.Context) error {
	var err error
	if s.audit, err = audit.Open(s.files.NetLog(), audit.Options{Sandbox: s.spec.Name}); err != nil {
		return err
	}
	// A proxy that cannot be read is an error: to go around it is what its owner does not want.
	proxy, err := upstream.New(s.spec.Network.Proxy, s.o.Getenv)
	if err != nil {
		return err
	}
	s.gateway, err = gateway.Start(context.WithoutCancel(ctx), gateway.Config{
		Link: s.qemu.Net, MAC: guestMAC(s.spec.Name), Guest: guestPrefix(), Gateway: gatewayAddr(), MTU: gateway.DefaultMTU,
		Policy: s.rules.compiled(), HostNet: s.hostNet, Resolver: net.DefaultResolver, Dialer: &net.Dialer{}, Audit: s.audit, Log: s.o.Log,
		Authority: s.authority, Secrets: s.secrets.vault(), Proxy: proxy,
	})
	if err == nil {
		s.rules.apply = s.gateway.SetPolicy
	}
	return err
}

// hostNet is asked before each dial. Without an answer about the host's own
// addresses nothing is dialled: every address counts as the host's.
func (s *Supervisor) hostNet() netfilter.HostNet {
	h, err := netfilter.CurrentHostNet()
	if err != nil {
		s.o.Log.Error("nothing is dialled", "error", err)
		return netfilter.Unknown()
	}
	return h
}

// maxForwarded bounds connections to one published port.
const maxForwarded = 256

// ports are the published ones: listeners on the host, served by the guest.
type ports struct {
	list      []machine.Port // with the real numbers
	listeners []net.Listener
	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup
}

func (s *Supervisor) startPorts(ctx context.Context) error {
	p := &ports{}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.ports = p
	var config net.ListenConfig
	for _, want := range s.spec.Ports {
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(want.Host, strconv.Itoa(int(want.Port))))
		if err != nil {
			return fmt.Errorf("publish port %d: %w (another program has it? change it under ports:)", want.Port, err)
		}
		got := want
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			got.Port = uint16(tcp.Port)
		}
		p.list, p.listeners = append(p.list, got), append(p.listeners, l)
		p.running.Go(func() { p.serve(l, got.Guest, s.gateway, s.o.Log) })
	}
	s.mu.Lock()
	s.record.Ports = p.list
	s.mu.Unlock()
	return nil
}

func (p *ports) serve(l net.Listener, guest uint16, g *gateway.Gateway, log *slog.Logger) {
	slots := make(chan struct{}, maxForwarded)
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				log.Error("published port", "port", guest, "error", err)
			}
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		p.running.Go(func() {
			defer func() { <-slots }()
			p.forward(conn, guest, g)
		})
	}
}

func (p *ports) forward(conn net.Conn, guest uint16, g *gateway.Gateway) {
	defer conn.Close()
	far, err := g.DialGuest(p.ctx, guest)
	if err != nil {
		return // nobody listens in the guest: the client sees the connection end
	}
	defer far.Close()
	stop := context.AfterFunc(p.ctx, func() { conn.Close(); far.Close() })
	defer stop()
	pipe(conn, far)
}

// pipe copies both ways until both have ended.
func pipe(a, b net.Conn) {
	var copies sync.WaitGroup
	half := func(to, from net.Conn) {
		io.Copy(to, from) //nolint:errcheck // either side may hang up
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			c.CloseWrite() //nolint:errcheck // see above
		} else {
			to.Close()
		}
	}
	copies.Go(func() { half(a, b) })
	copies.Go(func() { half(b, a) })
	copies.Wait()
}

func (p *ports) close() {
	p.cancel()
	for _, l := range p.listeners {
		l.Close()
	}
	p.running.Wait()
}
