//go:build unix

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/sbx-vm/sbx/sync/tree"
)

// Client is the host's end. One call goes at a time; others wait.
type Client struct {
	maxTree int
	stream  io.ReadWriteCloser
	replies chan reply
	done    chan struct{}
	quit    chan struct{} // closed when nobody waits for replies any more
	quitted sync.Once
	calls   chan struct{} // one token: whose turn it is
	next    uint64

	mu    sync.Mutex
	err   error
	dirty map[string]bool
	note  string
	// Changed has a token when Dirty has something to give.
	Changed chan struct{}
}

// maxDirty is how many changed paths are remembered; more are everything.
const maxDirty = 4096

// Start says hello over a stream to Serve and takes the stream over.
func Start(ctx context.Context, stream io.ReadWriteCloser, hello Hello) (*Client, error) {
	c := &Client{
		maxTree: hello.MaxTree, stream: stream, replies: make(chan reply), done: make(chan struct{}),
		quit: make(chan struct{}), calls: make(chan struct{}, 1), dirty: map[string]bool{}, Changed: make(chan struct{}, 1),
	}
	if c.maxTree == 0 {
		c.maxTree = 2_000_000
	}
	first := make(chan reply, 1)
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	go c.read(first)
	err := c.write(hello)
	if err == nil {
		select {
		case r := <-first:
			if r.Error != "" {
				err = fmt.Errorf("the guest's copy: %q", bounded(r.Error))
			}
		case <-c.done:
			err = c.Err()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.calls <- struct{}{}
	return c, nil
}

func bounded(s string) string { return s[:min(len(s), maxReason)] }

// Close ends the stream and returns when nothing reads it any more.
func (c *Client) Close() {
	c.kill()
	<-c.done
}

func (c *Client) kill() {
	c.quitted.Do(func() {
		close(c.quit)
		c.stream.Close() //nolint:errcheck // there is nobody left to tell
	})
}

// Done is closed when the stream has ended; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the stream ended.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Note is why the guest looks for changes every few seconds, if it does.
func (c *Client) Note() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.note
}

// Dirty gives and forgets the paths that may have changed.
func (c *Client) Dirty() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for p := range c.dirty {
		out = append(out, p)
	}
	clear(c.dirty)
	return out
}

func (c *Client) read(first chan<- reply) {
	defer close(c.done)
	lines := bufio.NewScanner(c.stream)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 0; lines.Scan(); n++ {
		var r reply
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			c.end(fmt.Errorf("%w: %w", errHostile, err))
			return
		}
		switch {
		case n == 0:
			c.event(r)
			first <- r
		case r.ID == 0:
			c.event(r)
		default:
			select {
			case c.replies <- r:
			case <-c.quit:
				return
			}
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	c.end(fmt.Errorf("the guest's agent ended: %w", err))
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *Client) event(r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note = bounded(r.Note)
	for _, p := range r.Dirty {
		if path := string(p); len(c.dirty) < maxDirty && tree.ValidPath(path) {
			c.dirty[path] = true
		} else {
			c.dirty = map[string]bool{"": true}
		}
	}
	if len(c.dirty) > 0 {
		select {
		case c.Changed <- struct{}{}:
		default:
		}
	}
}
