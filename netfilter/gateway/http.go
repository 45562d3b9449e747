package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// exchange is one HTTP connection: requests in turn to one server. Each is
// checked, decided and written anew; nothing is spliced but a WebSocket after its 101.
type exchange struct {
	g      *Gateway
	f      *flow
	conn   guestSide
	side   httpSide
	in     *bufio.Reader
	up     *upstream // nil until the first request was allowed
	from   *intercept.Responses
	served int // requests
	// sent is what was in force when the running request was filled: a server echoes what it was sent.
	sent secrets
}

// secrets are values and where they belong.
type secrets struct {
	vault  *intercept.Vault
	policy *netfilter.Policy
}

func (g *Gateway) secrets() secrets { return secrets{g.vault.Load(), g.policy.Load()} }

// httpSide is what differs between HTTP and intercepted HTTPS.
type httpSide interface {
	proto() string
	// dial connects to the server of the flow's name.
	dial(f *flow) (upstream, error)
	// encrypted tells whether nobody between host and server reads along.
	encrypted() bool
}

// plainHTTP is HTTP as the guest spoke it.
type plainHTTP struct{ g *Gateway }

func (plainHTTP) proto() string                    { return "http" }
func (p plainHTTP) dial(f *flow) (upstream, error) { return p.g.dial(f) }
func (plainHTTP) encrypted() bool                  { return false }

func (g *Gateway) serveHTTP(f *flow, conn guestSide, in io.Reader, side httpSide) {
	f.intercepted.Store(true)
	x := &exchange{g: g, f: f, conn: conn, side: side, in: bufio.NewReaderSize(in, intercept.MaxHead)}
	defer x.close()
	for x.next() {
	}
}

func (x *exchange) close() {
	if x.up == nil {
		return
	}
	x.up.Close()
	_ = x.conn.CloseWrite()
	x.conn.drain(x.f.ctx)
	x.g.ended(x.f, x.side.proto(), *x.up)
}

// next serves one request and says whether another may follow.
func (x *exchange) next() bool {
	_ = x.conn.SetReadDeadline(time.Now().Add(requestIdle))
	if _, err := x.in.Peek(1); err != nil {
		return false
	}
	_ = x.conn.SetReadDeadline(time.Now().Add(x.g.cfg.patience.hello))
	req, err := intercept.ReadRequest(x.in, x.f.name, x.f.port)
	if err != nil {
		x.badRequest(err)
		return false
	}
	if !x.allowed(req) || !x.fill(req) {
		return false
	}
	if x.up == nil && !x.connect() {
		return false
	}
	return x.forward(req)
}

// allowed decides a request.
func (x *exchange) allowed(req *intercept.Request) bool {
	line := inFlight{req.Method, req.Path()}
	if req.Upgrade {
		line.method = netfilter.MethodWebSocket
	}
	// Before the decision, so that a policy that comes after it finds the request.
	x.f.request.Store(&line)
	v := x.g.decideFlow(x.f, line.method, line.path)
	for i := 0; v.Allow && i < len(req.Others); i++ {
		// The budget is that of the request line.
		if other := x.f.judged(x.g.policy.Load(), req.Others[i].Method, req.Others[i].Path); !other.Allow {
			v, line.method, line.path = other, req.Others[i].Method, req.Others[i].Path
		}
	}
	e := by(x.f.entry(x.side.proto(), ""), v)
	e.Method, e.Path = line.method, line.path
	// A connection that began refused stays so, because revoke does not look at it.
	if v.Allow && x.f.verdict.Allow {
		e.Kind = audit.Request
		x.g.allowed(e)
		return true
	}
	x.g.denied(e)
	text := deniedText(x.f.name, x.f.port)
	if v.Reason != netfilter.ReasonNoRule && v.Reason != netfilter.ReasonPort && v.Rule != nil {
		text = fmt.Sprintf("sbx: %s %s of %s is not allowed by the rule %q.\n", line.method, printable(line.path), x.f.name, v.Rule.Pattern)
	}
	x.answer(http.StatusForbidden, text)
	return false
}

// fill puts secrets into a request, or refuses it.
func (x *exchange) fill(req *intercept.Request) bool {
	x.sent = x.g.secrets()
	filled, err := x.sent.vault.Fill(req, x.sent.policy.SecretsFor(x.f.name), x.side.encrypted())
	e := x.f.entry(x.side.proto(), "")
	e.Kind, e.Method, e.Path = audit.Secret, req.Method, req.Path()
	if err != nil {
		e.Reason = err.Error()
		x.g.denied(e)
		x.answer(http.StatusForbidden, "sbx: "+printable(err.Error())+"\n")
		return false
	}
	if len(filled) > 0 {
		e.Reason = "put in: " + strings.Join(filled, ", ")
		x.g.allowed(e)
	}
	return true
}

// scrub takes values of secrets out of a response's headers: those that the request had, and those of now.
func (x *exchange) scrub(h http.Header) {
	x.sent.vault.Scrub(h, x.sent.policy.SecretsFor(x.f.name))
	if now := x.g.secrets(); now != x.sent {
		now.vault.Scrub(h, now.policy.SecretsFor(x.f.name))
	}
}

// connect dials on the first request, after it was allowed.
func (x *exchange) connect() bool {
	up, err := x.side.dial(x.f)
	if err != nil {
		x.g.dialFailed(x.f, x.side.proto(), err)
		var class *netfilter.AddressError
		var verify *tls.CertificateVerificationError
		switch {
		case errors.As(err, &class):
			x.answer(http.StatusForbidden, fmt.Sprintf("sbx: %s leads to an address that no guest may reach.\n", x.f.name))
		case errors.As(err, &verify):
			x.answer(http.StatusBadGateway, fmt.Sprintf("sbx: the certificate of %s is not valid: %s\n", x.f.name, printable(err.Error())))
		default:
			x.answer(http.StatusBadGateway, fmt.Sprintf("sbx: cannot reach %s.\n", x.f.name))
		}
		return false
	}
	x.up, x.from = &up, intercept.NewResponses(&counted{up, &x.f.down})
	x.g.connected(x.f, x.side.proto(), up)
	return true
}

// forward sends the request and relays the response at the same time, because a
// server may answer (100 Continue, an early error) before the body has gone.
func (x *exchange) forward(req *intercept.Request) bool {
	up := *x.up
	stop := context.AfterFunc(x.f.ctx, func() { up.Close() })
	defer stop()
	x.served++
	var broken atomic.Pointer[error] // of the request's body
	req.Body = &patientBody{req.Body, x.conn, func(err error) {
		broken.Store(&err)
		up.Close() // the server would wait for the rest
	}}
	sent := make(chan error, 1)
	go func() {
		defer close(sent)
		defer x.g.recoverPanic("request")
		sent <- req.WriteTo(&counted{up, &x.f.up}, x.host())
	}()
	status, again, err := x.from.Relay(x.conn, req, x.scrub)
	switch bad := broken.Load(); {
	case err != nil && bad != nil && status == 0:
		x.badRequest(*bad)
	case err != nil:
		x.fail(status, err)
	}
	if err == nil && status == http.StatusSwitchingProtocols {
		x.becomeWebSocket(sent)
		return false
	}
	if !again || err != nil {
		_ = x.conn.CloseWrite()
		up.Close()
	}
	defer x.f.request.Store(nil)
	return x.settle(sent) && again && err == nil
}

// settle waits for a request body that a server may have answered without
// reading, and says whether all of it was sent.
func (x *exchange) settle(sent <-chan error) bool {
	select {
	case err, ok := <-sent:
		return ok && err == nil
	case <-time.After(lingerTimeout):
		x.conn.reset()
		x.up.Close()
		for range sent { // it ends, because both its connections have
		}
		return false
	}
}

// fail tells the guest that there is no (whole) response. On a connection that
// served before, a reset says "try again", which is what a client does when an
// idle server closed meanwhile; half a response is cut off audibly.
func (x *exchange) fail(status int, err error) {
	if status != 0 || x.served > 1 || x.f.ctx.Err() != nil {
		x.conn.reset()
		return
	}
	text := http.Header{"": {err.Error()}} // which quotes the server, who may quote the request
	x.scrub(text)
	x.g.refused(x.f, x.side.proto(), reasonUpstream, errors.New(text[""][0]))
	x.answer(http.StatusBadGateway, fmt.Sprintf("sbx: %s gave no valid HTTP response.\n", x.f.name))
}

// patientBody reads a request body that may take its time, but not stall.
type patientBody struct {
	io.ReadCloser
	conn   guestSide
	broken func(error) // is told of an end that is none
}

func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(requestIdle))
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.broken(err)
	}
	return n, err
}

// counted counts the bytes of a server's connection, in one direction.
type counted struct {
	io.ReadWriter
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadWriter.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ReadWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// becomeWebSocket carries opaque bytes, until either side ends or the policy does.
func (x *exchange) becomeWebSocket(sent <-chan error) {
	if !x.settle(sent) {
		return
	}
	_ = x.conn.SetReadDeadline(time.Time{})
	buffered, _ := x.in.Peek(x.in.Buffered())
	in := io.MultiReader(bytes.NewReader(buffered), x.conn)
	x.g.carry(x.f, x.conn, in, *x.up, x.from.Rest())
}

// badRequest answers what was not a request that is served.
func (x *exchange) badRequest(err error) {
	status := http.StatusBadRequest
	switch {
	case errors.Is(err, io.EOF):
		return
	case isTimeout(err):
		status = http.StatusRequestTimeout
	case errors.Is(err, intercept.ErrTooLarge):
		status = http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, intercept.ErrConnect), errors.Is(err, intercept.ErrTrace):
		status = http.StatusMethodNotAllowed
	case errors.Is(err, intercept.ErrName):
		status = http.StatusForbidden
	}
	x.g.refused(x.f, x.side.proto(), reasonHTTP, err)
	x.answer(status, "sbx: "+printable(err.Error())+"\n")
}

// answer is the gateway's own last response on the connection.
func (x *exchange) answer(status int, body string) {
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, http.StatusText(status), len(body))
	x.g.farewell(x.conn, []byte(head+body))
}

// deniedText tells a person or an agent in the guest what would allow it.
func deniedText(name string, port uint16) string {
	return fmt.Sprintf("sbx: %s:%d is not allowed. On the host: sbx policy allow %s:%d\n", name, port, name, port)
}

// host is what the server is told: the name, and the port where it is not the usual one.
func (x *exchange) host() string {
	if x.f.port == 443 && x.side.encrypted() || x.f.port == 80 && !x.side.encrypted() {
		return x.f.name
	}
	return net.JoinHostPort(x.f.name, strconv.Itoa(int(x.f.port)))
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
