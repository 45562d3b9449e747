package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/sbx-vm/sbx/netfilter/intercept"
)

var errProtocol = errors.New("the first bytes are not what this port is for")

// serveInspected accepts, and reads what the guest says first before anything is
// resolved or dialled. A client that waits for the server to speak gets nowhere.
func (g *Gateway) serveInspected(s *syn, f *flow) {
	conn, err := g.accept(f.ctx, s, g.flows.buffer())
	if err != nil {
		g.denied(f.entry("tcp", reasonHandshake))
		return
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(f.ctx, conn.reset)
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(g.cfg.patience.hello))
	first := make([]byte, 1)
	if _, err := conn.Read(first); err != nil {
		if errors.Is(err, io.EOF) {
			return // a connection that was only tried, which is no offence
		}
		g.refused(f, "tcp", reasonProtocol, err)
		conn.reset()
		return
	}
	in := io.MultiReader(bytes.NewReader(first), conn)
	switch protocol := intercept.Sniff(first[0]); {
	case protocol == intercept.TLS && f.port != 80:
		g.serveTLS(f, conn, in)
	case protocol == intercept.HTTP && f.port != 443:
		g.serveHTTP(f, conn, in, plainHTTP{g})
	default:
		g.refused(f, "tcp", reasonProtocol, errProtocol)
		conn.reset()
	}
}

// serveTLS passes a TLS connection through whose SNI is the name. The hello goes
// on byte by byte as the guest wrote it.
func (g *Gateway) serveTLS(f *flow, conn guestConn, in io.Reader) {
	hello, raw, err := intercept.ReadHello(in)
	reason := reasonProtocol
	if err == nil {
		reason, err = reasonTLSName, hello.Check(f.name)
	}
	verdict := g.decideFlow(f, "", "")
	if err == nil && !verdict.Allow {
		reason, err = verdict.Reason, errRevoked
	}
	if err == nil && verdict.Intercept {
		g.intercept(f, conn, raw)
		return
	}
	if err != nil {
		g.refused(f, "tls", reason, err)
		g.farewell(conn, intercept.AccessDenied())
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	up, err := g.dial(f)
	if err != nil {
		g.dialFailed(f, "tls", err)
		conn.reset()
		return
	}
	g.connected(f, "tls", up)
	g.carry(f, conn, io.MultiReader(bytes.NewReader(raw), conn), up, up)
	g.ended(f, "tls", up)
}

// farewell sends last words and ends. What the guest still sends is read for a moment, because
// closing with unread bytes is a reset, which takes the words back.
func (g *Gateway) farewell(conn guestSide, words []byte) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write(words); err != nil {
		conn.reset()
		return
	}
	_ = conn.CloseWrite()
	_, _ = io.CopyN(io.Discard, conn, 1<<20)
}
