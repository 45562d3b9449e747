package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// exchange is one HTTP connection: requests in turn to one server. Each is
// checked, decided and written anew; nothing is spliced but a WebSocket after its 101.
type exchange struct {
	g      *Gateway
	f      *flow
	conn   guestConn
	in     *bufio.Reader
	up     *upstream // nil until the first request was allowed
	from   *intercept.Responses
	served int // requests
}

func (g *Gateway) serveHTTP(f *flow, conn guestConn, in io.Reader) {
	x := &exchange{g: g, f: f, conn: conn, in: bufio.NewReaderSize(in, intercept.MaxHead)}
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
	x.g.ended(x.f, "http", *x.up)
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
	// A connection that began refused stays so, because revoke does not look at it.
	if v := x.g.decide(x.f.name, x.f.port); !v.Allow || !x.f.verdict.Allow {
		x.g.denied(by(x.f.entry("http", ""), v))
		x.answer(http.StatusForbidden, deniedText(x.f.name, x.f.port))
		return false
	}
	if x.up == nil && !x.connect() {
		return false
	}
	return x.forward(req)
}

// connect dials on the first request, after it was allowed.
func (x *exchange) connect() bool {
	up, err := x.g.dial(x.f)
	if err != nil {
		x.g.dialFailed(x.f, "http", err)
		var class *netfilter.AddressError
		if errors.As(err, &class) {
			x.answer(http.StatusForbidden, fmt.Sprintf("sbx: %s leads to an address that no guest may reach.\n", x.f.name))
		} else {
			x.answer(http.StatusBadGateway, fmt.Sprintf("sbx: cannot reach %s.\n", x.f.name))
		}
		return false
	}
	x.up, x.from = &up, intercept.NewResponses(&counted{up, &x.f.down})
	x.g.connected(x.f, "http", up)
	return true
}

// forward sends the request and relays the response at the same time, because a
// server may answer (100 Continue, an early error) before the body has gone.
func (x *exchange) forward(req *intercept.Request) bool {
	up := *x.up
	stop := context.AfterFunc(x.f.ctx, func() { up.Close() })
	defer stop()
	x.served++
	req.Body = &patientBody{req.Body, x.conn}
	sent := make(chan error, 1)
	go func() {
		defer close(sent)
		defer x.g.recoverPanic("request")
		sent <- req.WriteTo(&counted{up, &x.f.up}, hostHeader(x.f))
	}()
	status, again, err := x.from.Relay(x.conn, req)
	if err != nil {
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
	if status != 0 || x.served > 1 {
		x.conn.reset()
		return
	}
	x.g.refused(x.f, "http", reasonUpstream, err)
	x.answer(http.StatusBadGateway, fmt.Sprintf("sbx: %s gave no valid HTTP response.\n", x.f.name))
}

// patientBody reads a request body that may take its time, but not stall.
type patientBody struct {
	io.ReadCloser
	conn guestConn
}

func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(requestIdle))
	return b.ReadCloser.Read(p)
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
	case errors.Is(err, intercept.ErrConnect):
		status = http.StatusMethodNotAllowed
	case errors.Is(err, intercept.ErrName):
		status = http.StatusForbidden
	}
	x.g.refused(x.f, "http", reasonHTTP, err)
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

func hostHeader(f *flow) string {
	if f.port == 80 {
		return f.name
	}
	return net.JoinHostPort(f.name, strconv.Itoa(int(f.port)))
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
