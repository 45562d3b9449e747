package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/qemu"
)

// Limits on the console, which the guest writes.
const (
	maxLog    = 16 << 20 // bytes kept
	maxLine   = 4 << 10
	maxReason = 300 // characters of a line that are shown
	keepLines = 12  // shown when the machine ends without a word
)

// marker begins the lines that are meant for the host.
const marker = "sbx-build: step: "

var (
	errStalled  = fmt.Errorf("the builder printed nothing for %s", stall)
	errDiskFull = errors.New("the host's disk is full")
)

// watch follows the machine to its end.
func watch(ctx context.Context, p *qemu.Process, in image.BuildInput) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := watchDisk(ctx, p, cancel); err != nil {
		return err
	}
	log, err := os.OpenFile(in.Log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// A read that blocks ends when ctx does, whatever the reason.
	stop := context.AfterFunc(ctx, func() { p.Console.SetReadDeadline(time.Now()) }) //nolint:errcheck // closed later in any case
	defer stop()
	c := &console{log: log, left: maxLog, progress: in.Progress, stalled: func() { cancel(errStalled) }}
	if err := c.follow(p.Console); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return ended(ctx, p, c)
}

// ended judges a machine whose console has closed or that says it is done.
func ended(ctx context.Context, p *qemu.Process, c *console) error {
	timer := time.NewTimer(powerOff)
	defer timer.Stop()
	select {
	case <-p.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("the builder did not power off within %s", powerOff)
	}
	if !c.done {
		return fmt.Errorf("the builder ended too early: %s%s", p.Stderr(), c.tail())
	}
	return p.Err()
}

// watchDisk ends the build when QEMU paused the machine over a full disk: it
// would wait for room for ever.
func watchDisk(ctx context.Context, p *qemu.Process, cancel context.CancelCauseFunc) error {
	events, err := p.QMP.Events(ctx)
	if err != nil {
		return err
	}
	go func() {
		for e := range events {
			if e.Event == "BLOCK_IO_ERROR" {
				cancel(errDiskFull)
			}
		}
	}()
	return nil
}

// console reads what the builder prints.
type console struct {
	log      io.Writer
	left     int // bytes that the log still takes
	progress image.Progress
	stalled  func()
	last     []string
	done     bool
}

// follow reads until the builder says that it is done or the console ends. A
// builder that says that it failed is an error with its reason.
func (c *console) follow(conn net.Conn) error {
	timer := time.AfterFunc(stall, c.stalled)
	defer timer.Stop()
	lines := bufio.NewReaderSize(conn, maxLine)
	for {
		raw, _, err := lines.ReadLine() // a longer line comes in pieces
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the builder's console: %w", err)
		}
		timer.Reset(stall)
		if err := c.line(string(raw)); err != nil || c.done {
			return err
		}
	}
}

func (c *console) line(raw string) error {
	if n := len(raw) + 1; n <= c.left {
		c.left -= n
		if _, err := io.WriteString(c.log, raw+"\n"); err != nil {
			return fmt.Errorf("write the builder's log: %w", err)
		}
	}
	text := clean(raw)
	if text == "" {
		return nil
	}
	if c.last = append(c.last, text); len(c.last) > keepLines {
		c.last = c.last[1:]
	}
	switch reason, failed := strings.CutPrefix(text, boot.BuildFailed); {
	case failed:
		return fmt.Errorf("the builder failed: %s", strings.TrimPrefix(reason, ": "))
	case text == boot.BuildDone:
		c.done = true
	default:
		if step, ok := strings.CutPrefix(text, marker); ok {
			c.progress.Phase(step, 0)
		}
	}
	return nil
}

// tail is the last of what was printed, for an error.
func (c *console) tail() string {
	if len(c.last) == 0 {
		return "it printed nothing"
	}
	return "it last printed\n  " + strings.Join(c.last, "\n  ")
}

// clean makes a line of the guest fit for a terminal: printable ASCII, not long.
func clean(raw string) string {
	text := strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, raw)
	return strings.TrimSpace(text[:min(len(text), maxReason)])
}
