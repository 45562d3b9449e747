// Package qmp talks to QEMU over its machine protocol (QEMU: docs/interop/qmp-spec).
//
// [Client] is our own because go-qemu's socket monitor cannot serve a supervisor:
// there an event that nobody reads blocks every later command, a reply past 64 KiB
// ends the connection, and neither contexts nor error classes exist. It implements
// go-qemu's qmp.Monitor, so that go-qemu's domains and typed commands work on it.
//
// One goroutine reads. Replies are matched to callers by id; events go to bounded
// queues that drop their oldest, so that neither can hold up the other.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	goqmp "github.com/digitalocean/go-qemu/qmp"
)

// Bounds of what QEMU may send. query-qmp-schema is 236 KB in QEMU 10; nothing
// that sbx asks comes near 8 MiB.
const (
	maxMessage     = 8 << 20
	eventQueue     = 64
	handshakeLimit = 10 * time.Second
	runLimit       = 30 * time.Second
)

// ErrClosed is the error of calls on a connection that has ended without a cause
// of its own.
var ErrClosed = errors.New("qmp: connection closed")

// Event is what QEMU reports unasked.
type Event = goqmp.Event

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // "GenericError", "CommandNotFound", …
	Desc    string
}

func (e *Error) Error() string { return fmt.Sprintf("qmp: %s: %s", e.Command, e.Desc) }

// Client is one connection. It is safe for concurrent use.
type Client struct {
	conn  net.Conn
	write chan struct{} // has room for one: whoever filled it may write

	mu      sync.Mutex
	nextID  uint64
	calls   map[uint64]chan message
	streams map[chan goqmp.Event]context.Context
	dropped uint64
	err     error

	done chan struct{}
}

var _ goqmp.Monitor = (*Client)(nil)

// message is any line that QEMU sends after its greeting.
type message struct {
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// Dial connects to the monitor's unix socket and negotiates.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("qmp: connect: %w", err)
	}
	return New(ctx, conn)
}

// New negotiates on a connection and owns it from then on, also on error.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn: conn, calls: map[uint64]chan message{}, streams: map[chan goqmp.Event]context.Context{}, done: make(chan struct{}),
		write: make(chan struct{}, 1),
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // a connection that cannot time out ends by Close
	lines := bufio.NewReaderSize(conn, 64<<10)
	greeting, err := readLine(lines)
	if !stop() && err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		err = checkGreeting(greeting)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("qmp: greeting: %w", err)
	}
	go c.read(lines)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.fail(ErrClosed)
		return nil, err
	}
	return c, nil
}

func checkGreeting(line []byte) error {
	var g struct {
		QMP *struct{} `json:"QMP"`
	}
	if err := json.Unmarshal(line, &g); err != nil {
		return err
	}
	if g.QMP == nil {
		return errors.New("the other side is no QMP monitor")
	}
	return nil
}

// readLine reads one message; QMP ends each with CR LF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxMessage {
			return nil, fmt.Errorf("message of more than %d bytes", maxMessage)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func (c *Client) read(lines *bufio.Reader) {
	var err error
	for {
		var line []byte
		if line, err = readLine(lines); err != nil {
			break
		}
		if err = c.dispatch(line); err != nil {
			break
		}
	}
	c.fail(err)
}

func (c *Client) dispatch(line []byte) error {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	if m.Event != "" {
		var e goqmp.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		c.publish(e)
		return nil
	}
	c.mu.Lock()
	call, ok := c.calls[m.ID]
	delete(c.calls, m.ID)
	c.mu.Unlock()
	if ok {
		call <- m // buffered: the caller may have gone
	}
	return nil
}

// publish offers an event to every stream; one that is full loses its oldest.
func (c *Client) publish(e goqmp.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for stream := range c.streams {
		select {
		case stream <- e:
		default:
			select {
			case <-stream:
				c.dropped++
			default:
			}
			stream <- e // only this goroutine sends, so there is room now
		}
	}
}

// fail ends the connection and everybody who waits on it.
func (c *Client) fail(err error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) { // QEMU has ended
		err = ErrClosed
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	for id, call := range c.calls {
		close(call)
		delete(c.calls, id)
	}
	for stream := range c.streams {
		close(stream)
		delete(c.streams, stream)
	}
}

// Execute runs a command and decodes its result into reply, which may be nil.
// QEMU's refusal is an [*Error]. When ctx ends first the command may still have
// been carried out.
func (c *Client) Execute(ctx context.Context, command string, args, reply any) error {
	m, err := c.call(ctx, command, args)
	if err != nil {
		return err
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, reply); err != nil {
		return fmt.Errorf("qmp: %s: result: %w", command, err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, command string, args any) (message, error) {
	id, wait, err := c.register()
	if err != nil {
		return message{}, err
	}
	defer c.forget(id)
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return message{}, fmt.Errorf("qmp: %s: arguments: %w", command, err)
	}
	if err := c.send(ctx, line); err != nil {
		return message{}, fmt.Errorf("qmp: %s: %w", command, err)
	}
	select {
	case <-ctx.Done():
		return message{}, fmt.Errorf("qmp: %s: %w", command, ctx.Err())
	case m, ok := <-wait:
		switch {
		case !ok:
			return message{}, fmt.Errorf("qmp: %s: %w", command, c.Err())
		case m.Error != nil:
			return message{}, &Error{Command: command, Class: m.Error.Class, Desc: m.Error.Desc}
		}
		return m, nil
	}
}

func (c *Client) register() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	wait := make(chan message, 1)
	c.calls[c.nextID] = wait
	return c.nextID, wait, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
}

// send writes one line. A context that ends in the middle of it ends the
// connection: half a command cannot be taken back.
func (c *Client) send(ctx context.Context, line []byte) error {
	select {
	case c.write <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	defer func() { <-c.write }()
	if err := ctx.Err(); err != nil {
		return err
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		c.conn.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // see fail
	})
	_, err := c.conn.Write(append(line, '\n'))
	if !stop() {
		// The deadline is this call's: the next one must not meet it.
		<-expired
		c.conn.SetWriteDeadline(time.Time{}) //nolint:errcheck // see fail
	}
	if err != nil {
		c.fail(err)
	}
	return err
}

// Dropped counts the events that streams lost because nobody read them in time.
func (c *Client) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// Events gives the events from now on until ctx ends or the connection does,
// which closes the channel. A reader that is late loses the oldest.
func (c *Client) Events(ctx context.Context) (<-chan goqmp.Event, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	stream := make(chan goqmp.Event, eventQueue)
	c.streams[stream] = ctx
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, open := c.streams[stream]; open {
			delete(c.streams, stream)
			close(stream)
		}
	})
	return stream, nil
}

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the connection is up.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. It can be called more than once.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Connect is there for qmp.Monitor; a Client is connected from the start.
func (c *Client) Connect() error { return c.Err() }

// Disconnect is Close, for qmp.Monitor.
func (c *Client) Disconnect() error { return c.Close() }

// Run executes a command that is JSON already and returns QEMU's whole answer,
// for qmp.Monitor. That interface has no contexts, so a lost answer is an error
// after runLimit; prefer Execute.
func (c *Client) Run(command []byte) ([]byte, error) {
	var cmd struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments,omitempty"`
	}
	if err := json.Unmarshal(command, &cmd); err != nil {
		return nil, fmt.Errorf("qmp: command: %w", err)
	}
	var args any
	if cmd.Arguments != nil {
		args = cmd.Arguments
	}
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	m, err := c.call(ctx, cmd.Execute, args)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]json.RawMessage{"return": m.Return})
}
