package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// syn is a connection that the guest asks for. It is answered once: by accept,
// or by a reset.
type syn struct {
	request  *tcp.ForwarderRequest
	id       stack.TransportEndpointID
	addr     netip.Addr // where to
	port     uint16
	answered bool
}

// guestConn is an accepted connection. reset ends it with RST and never blocks.
type guestConn struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	queue *waiter.Queue // of the endpoint's events
	unit  int           // bytes of one write at most, see wholeSegments
}

func (c guestConn) reset() { c.ep.Abort() }

// guestSide is the guest's end of a connection: its TCP, or TLS on it.
type guestSide interface {
	net.Conn
	CloseWrite() error
	reset()
	drain(ctx context.Context)
}

// drain waits until the guest has taken the last bytes, that is, acknowledged our
// FIN. A guest that reads slowly may; its connection counts for as long.
func (c guestConn) drain(ctx context.Context) {
	for wait := time.Millisecond; ; wait = min(2*wait, maxDrainPoll) {
		switch tcp.EndpointState(c.ep.State()) {
		case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		default:
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Close ends the connection in order. A guest that does not take the last bytes
// keeps them in memory for lingerTimeout.
func (c guestConn) Close() error {
	limit := tcpip.TCPUserTimeoutOption(lingerTimeout)
	_ = c.ep.SetSockOpt(&limit)
	return c.TCPConn.Close()
}

// handleTCP runs in a goroutine of its own for each SYN. What it does not accept
// is reset. A panic ends this one connection.
func (g *Gateway) handleTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	s := &syn{request: r, id: id, addr: toAddr(id.LocalAddress), port: id.LocalPort}
	if !g.work.enter() {
		r.Complete(false)
		return
	}
	defer g.work.leave()
	defer s.refuse()
	defer g.recoverPanic("connection")
	if s.addr == g.cfg.Gateway {
		g.serveOwn(s)
		return
	}
	g.serveName(s)
}

func (g *Gateway) recoverPanic(what string) {
	if p := recover(); p != nil {
		g.log.Error("panic in the gateway", "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// refuse resets the connection if it was not answered.
func (s *syn) refuse() { s.answer(true) }

// ignore lets the guest ask again, as its TCP does after a second.
func (s *syn) ignore() { s.answer(false) }

func (s *syn) answer(reset bool) {
	if !s.answered {
		s.answered = true
		s.request.Complete(reset)
	}
}

// serveOwn serves the gateway's own address: DNS and nothing else.
func (g *Gateway) serveOwn(s *syn) {
	if s.port != 53 {
		g.denied(audit.Entry{Kind: audit.Connect, Addr: s.addr.String(), Port: s.port, Proto: "tcp", Reason: reasonGateway})
		return
	}
	if !g.dnsConns.enter() {
		return
	}
	defer g.dnsConns.leave()
	conn, err := g.accept(g.ctx, s, narrowBuffer)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(g.ctx, conn.reset)
	defer stop()
	g.serveDNSConn(conn)
}

// serveName serves a connection to an address that stands for a name.
func (g *Gateway) serveName(s *syn) {
	entry := audit.Entry{Kind: audit.Connect, Addr: s.addr.String(), Port: s.port, Proto: "tcp"}
	name, release, ok := g.names.Acquire(s.addr)
	defer release()
	if s.port == 0 { // no port, and to the policy the question whether the name may be resolved
		entry.Name, entry.Reason = name, netfilter.ReasonPort
		g.denied(entry)
		return
	}
	asked := netfilter.Request{Name: name, Port: s.port}
	if ok {
		entry.Name, entry.Addr = name, ""
	} else {
		asked.Addr = s.addr
	}
	verdict := g.policy.Load().Decide(asked)
	if verdict.Ask {
		verdict = g.ask(asked, verdict)
	}
	if !ok && !verdict.Allow {
		if verdict.Reason == netfilter.ReasonLiteral {
			verdict.Reason = reasonUnknown
		}
		g.denied(by(entry, verdict))
		return
	}
	if !verdict.Allow && s.port != 80 { // on port 80 a refusal can be said in words
		g.denied(by(entry, verdict))
		return
	}
	f, ok := g.flows.begin(g.ctx, asked, verdict)
	if !ok {
		entry.Reason = reasonLimit
		g.denied(entry)
		s.ignore()
		return
	}
	defer g.flows.finish(f)
	if now := g.decideFlow(f, "", ""); now.Allow != verdict.Allow || now.Raw != verdict.Raw || now.Target != verdict.Target {
		return // the policy changed before SetPolicy could see this flow; the guest tries again
	}
	if verdict.Allow && verdict.Raw {
		g.serveRaw(s, f)
		return
	}
	g.serveInspected(s, f)
}

// serveRaw dials first: the guest sees the connection accepted only if the
// server accepted it.
func (g *Gateway) serveRaw(s *syn, f *flow) {
	up, err := g.dial(f)
	if errors.Is(err, errTooMany) {
		s.ignore()
	}
	if err != nil {
		g.dialFailed(f, "tcp", err)
		return
	}
	defer up.Close()
	conn, err := g.accept(f.ctx, s, g.flows.buffer())
	if err != nil {
		g.denied(f.entry("tcp", reasonHandshake))
		return
	}
	g.connected(f, "tcp", up)
	g.splice(f, conn, up, "tcp")
}

// accept completes the guest's handshake, until ctx ends. The caller closes the connection.
func (g *Gateway) accept(ctx context.Context, s *syn, buffer int) (guestConn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	hs := &handshake{abort: cancel}
	g.half.add(hs)
	defer g.half.remove(hs)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { g.abortUntil(s.id, done) })
	var queue waiter.Queue
	ep, err := s.request.CreateEndpoint(&queue)
	stop()
	close(done)
	s.answer(err != nil)
	if err != nil {
		return guestConn{}, errors.New(err.String())
	}
	tune(ep, buffer)
	return guestConn{gonet.NewTCPConn(&queue, ep), ep, &queue, wholeSegments(g.cfg.MTU)}, nil
}

// wholeSegments is how much one write takes: about directWrite, and no segment half filled. A frame costs by its
// number more than by its size, and of the largest there are few in a write.
func wholeSegments(mtu int) int {
	const timestamps = 12
	size := mtu - header.IPv4MinimumSize - header.TCPMinimumSize - timestamps
	return directWrite / size * size
}

// abortUntil ends a handshake in spite of gVisor, which waits two minutes for it.
// It tries again because the endpoint may not be registered yet.
func (g *Gateway) abortUntil(id stack.TransportEndpointID, done <-chan struct{}) {
	for {
		if ep := g.stack.FindTransportEndpoint(ipv4.ProtocolNumber, tcp.ProtocolNumber, id, nicID); ep != nil {
			ep.Abort()
		}
		select {
		case <-done:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tune bounds an endpoint's memory, and its life when the guest is gone.
func tune(ep tcpip.Endpoint, buffer int) {
	options := ep.SocketOptions()
	options.SetSendBufferSize(int64(buffer), true)
	options.SetReceiveBufferSize(int64(buffer), true)
	options.SetDelayOption(false)
	options.SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveEvery)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&every)
}

// entry begins an audit entry about the flow.
func (f *flow) entry(proto, reason string) audit.Entry {
	e := audit.Entry{Kind: audit.Connect, Name: f.name, Port: f.port, Proto: proto, Reason: reason}
	if f.addr.IsValid() {
		e.Addr = f.addr.String()
	}
	return e
}

// refused records a refusal by the flow's rule or for a reason of the gateway's.
func (g *Gateway) refused(f *flow, proto string, reason string, err error) {
	e := f.entry(proto, reason)
	if err != nil {
		e.Reason += ": " + printable(err.Error())
	}
	g.denied(e)
}

// dialFailed records why nothing was reached.
func (g *Gateway) dialFailed(f *flow, proto string, err error) {
	var class *netfilter.AddressError
	switch {
	case errors.As(err, &class):
		e := f.entry(proto, netfilter.ReasonAddressClass)
		e.Addr = class.Addr.String()
		g.denied(e)
	case errors.Is(context.Cause(f.ctx), errRevoked):
		g.denied(f.entry(proto, reasonRevoked))
	default:
		g.refused(f, proto, reasonUpstream, err)
	}
}
