package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

const (
	maxAnswer = 4 << 20   // bytes of a JSON answer
	maxList   = 256 << 20 // of one that has an entry for every file of a workspace
)

// Client talks to one supervisor.
type Client struct {
	socket string
	http   *http.Client
}

// Dial connects to a supervisor's socket and checks that both speak the same
// protocol. The caller closes the client.
func Dial(ctx context.Context, socket string) (*Client, error) {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression: true,
	}}
	conn, err := c.dial(ctx) // whether somebody is there, before any request
	if err != nil {
		return nil, err
	}
	conn.Close()
	return c, nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.socket)
}

// Close ends idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Status asks how the sandbox stands.
func (c *Client) Status(ctx context.Context) (machine.Status, error) {
	var st machine.Status
	return st, c.call(ctx, http.MethodGet, PathStatus, nil, &st)
}

// Stop ends the sandbox in order and returns when it has ended.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, PathStop, nil, nil)
}

// Policy gives the network's rules.
func (c *Client) Policy(ctx context.Context) (PolicyView, error) {
	var v PolicyView
	return v, c.call(ctx, http.MethodGet, PathPolicy, nil, &v)
}

// EditPolicy changes the rules of this sandbox; they stay for later starts.
func (c *Client) EditPolicy(ctx context.Context, edit PolicyEdit) (PolicyView, error) {
	var v PolicyView
	return v, c.call(ctx, http.MethodPost, PathPolicy, edit, &v)
}

// Denials gives what was refused since a time.
func (c *Client) Denials(ctx context.Context, since time.Time) ([]audit.Entry, error) {
	var entries []audit.Entry
	q := url.Values{"since": {since.Format(time.RFC3339Nano)}}
	return entries, c.call(ctx, http.MethodGet, PathDenials+"?"+q.Encode(), nil, &entries)
}

// Pending gives the questions that are open.
func (c *Client) Pending(ctx context.Context) (Pending, error) {
	var p Pending
	return p, c.call(ctx, http.MethodGet, PathPending, nil, &p)
}

// WaitPending returns when the questions differ from those of seen (0: any that are open), or ctx ends.
func (c *Client) WaitPending(ctx context.Context, seen uint64) (Pending, error) {
	var p Pending
	q := url.Values{"seen": {strconv.FormatUint(seen, 10)}}
	return p, c.call(ctx, http.MethodGet, PathPending+"?"+q.Encode(), nil, &p)
}

// Answer decides a question. One that is gone is an error.
func (c *Client) Answer(ctx context.Context, a Answer) error {
	return c.call(ctx, http.MethodPost, PathAnswer, a, nil)
}

// Live gives the connections that are open.
func (c *Client) Live(ctx context.Context) ([]Connection, error) {
	var list []Connection
	return list, c.call(ctx, http.MethodGet, PathLive, nil, &list)
}

// Checkpoint begins a checkpoint of the workspace's journal and gives its number.
func (c *Client) Checkpoint(ctx context.Context, label string) (int, error) {
	var made Checkpoint
	err := c.call(ctx, http.MethodPost, PathCheckpoint, CheckpointRequest{label}, &made)
	return made.ID, err
}

// Flush has all written to the workspace's journal that the guest did before.
func (c *Client) Flush(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, PathFlush, struct{}{}, nil)
}

// Mirror asks something of the guest's copy of the workspace and gives how it is then.
func (c *Client) Mirror(ctx context.Context, do string) (machine.Mirror, error) {
	var m machine.Mirror
	return m, c.call(ctx, http.MethodPost, PathMirror, MirrorRequest{do}, &m)
}

// Changes gives what the guest changed in its copy, in the order of paths.
func (c *Client) Changes(ctx context.Context) ([]Change, error) {
	var list []Change
	return list, c.callFor(ctx, http.MethodGet, PathChanges, nil, &list, maxList)
}

// Content gives both versions of a changed file. A large one is an error.
func (c *Client) Content(ctx context.Context, path string) (Content, error) {
	var both Content
	return both, c.call(ctx, http.MethodGet, PathContent+"?"+url.Values{"path": {path}}.Encode(), nil, &both)
}

// Apply brings changes to the host, if they are still what was shown.
func (c *Client) Apply(ctx context.Context, picks []Pick) ([]Applied, error) {
	var done []Applied
	return done, c.callFor(ctx, http.MethodPost, PathApply, picks, &done, maxList)
}

// ReloadSecrets makes the supervisor read the secrets' values again. It gives the names of those
// that have none.
func (c *Client) ReloadSecrets(ctx context.Context) (missing []string, err error) {
	return missing, c.call(ctx, http.MethodPost, PathSecrets, nil, &missing)
}

func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	return c.callFor(ctx, method, path, body, answer, maxAnswer)
}

// callFor is call for an answer of at most so many bytes.
func (c *Client) callFor(ctx context.Context, method, path string, body, answer any, most int64) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://sbx"+path, payload)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return unwrapURL(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	if err != nil {
		return err
	}
	if int64(len(data)) > most {
		return fmt.Errorf("the supervisor's answer has more than %d bytes", most)
	}
	if err := check(response, data); err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(data, answer)
}

// unwrapURL drops "Get http://sbx/…", which tells a person nothing.
func unwrapURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func check(response *http.Response, body []byte) error {
	if v := response.Header.Get(HeaderProtocol); v != strconv.Itoa(Protocol) {
		return fmt.Errorf("the sandbox was started by another version of sbx (protocol %q, this one speaks %d): sbx restart", v, Protocol)
	}
	if response.StatusCode < 300 {
		return nil
	}
	var f Failure
	if err := json.Unmarshal(body, &f); err != nil || f.Error == "" {
		return fmt.Errorf("the supervisor answered %s", response.Status)
	}
	return errors.New(f.Error)
}

// upgrade sends a request and takes the connection over.
func (c *Client) upgrade(ctx context.Context, path string, body any) (net.Conn, *bufio.Reader, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReaderSize(conn, MaxFrame)
	if err := handshake(ctx, conn, r, path, data); err != nil {
		conn.Close()
		return nil, nil, err
	}
	if !stop() {
		return nil, nil, ctx.Err()
	}
	return conn, r, nil
}

func handshake(ctx context.Context, conn net.Conn, r *bufio.Reader, path string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sbx"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "sbx")
	if err := request.Write(conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(r, request)
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		return check(&http.Response{Header: response.Header, StatusCode: http.StatusOK}, nil)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return errors.Join(err, check(response, text))
}

// SFTP opens an SFTP stream to the guest, as the sandbox's user.
func (c *Client) SFTP(ctx context.Context) (io.ReadWriteCloser, error) {
	return c.stream(ctx, PathSFTP)
}

// DialDocker opens a stream to the guest's Docker socket.
func (c *Client) DialDocker(ctx context.Context) (io.ReadWriteCloser, error) {
	return c.stream(ctx, PathDocker)
}

func (c *Client) stream(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	conn, r, err := c.upgrade(ctx, path, struct{}{})
	if err != nil {
		return nil, err
	}
	return buffered{conn, r}, nil
}

// buffered is a connection whose first bytes were read with the answer's head.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
