package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

var errNoAuthority = errors.New("the sandbox has no authority to sign with")

// intercept ends the guest's TLS here and serves the requests in it. raw is the hello, whose name was
// checked. The server is dialled after the first request was allowed, over TLS of our own.
func (g *Gateway) intercept(f *flow, conn guestConn, raw []byte) {
	f.intercepted.Store(true)
	if g.cfg.Authority == nil {
		g.refused(f, "https", reasonNoAuthority, errNoAuthority)
		conn.reset()
		return
	}
	config, err := g.cfg.Authority.Config(f.name)
	if err != nil {
		g.refused(f, "https", reasonLimit, err)
		conn.reset()
		return
	}
	replayed := replay{conn, io.MultiReader(bytes.NewReader(raw), conn)}
	guest := tlsGuest{tls.Server(replayed, config), conn}
	_ = conn.SetDeadline(time.Now().Add(g.cfg.patience.hello))
	if err := guest.HandshakeContext(f.ctx); err != nil {
		g.refused(f, "https", reasonClientTLS, clientError(err))
		conn.reset()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	defer func() { _ = guest.Close() }()
	g.serveHTTP(f, guest, guest, tlsHTTP{g})
}

// clientError says in words what an alert of the guest's client means.
func clientError(err error) error {
	var alert tls.AlertError
	var op *net.OpError
	if errors.As(err, &alert) || errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("the client does not take the sandbox's certificate: it has a store of its own or pins the server's: %w", err)
	}
	return err
}

// tlsHTTP is HTTP in TLS that ends here, and begins here.
type tlsHTTP struct{ g *Gateway }

func (tlsHTTP) proto() string   { return "https" }
func (tlsHTTP) encrypted() bool { return true }

// dial connects and verifies the server as the name that the guest asked for.
func (t tlsHTTP) dial(f *flow) (upstream, error) {
	up, err := t.g.dial(f)
	if err != nil {
		return upstream{}, err
	}
	client := tls.Client(up.Conn, &tls.Config{ServerName: f.name, RootCAs: t.g.cfg.Roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	if err := client.HandshakeContext(ctx); err != nil {
		up.Close()
		return upstream{}, fmt.Errorf("TLS with the server: %w", err)
	}
	return upstream{client, up.addr}, nil
}

// replay is a connection with bytes of its own in front.
type replay struct {
	net.Conn
	in io.Reader
}

func (r replay) Read(b []byte) (int, error) { return r.in.Read(b) }

// tlsGuest is the guest's end of an intercepted connection.
type tlsGuest struct {
	*tls.Conn
	tcp guestConn
}

func (t tlsGuest) reset()                    { t.tcp.reset() }
func (t tlsGuest) drain(ctx context.Context) { t.tcp.drain(ctx) }

// CloseWrite ends both layers in order, so that a client sees an end and no cut.
func (t tlsGuest) CloseWrite() error {
	return errors.Join(t.Conn.CloseWrite(), t.tcp.CloseWrite())
}
