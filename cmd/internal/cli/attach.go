package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
)

// attachment says how a command of the guest is tied to this process.
type attachment struct {
	stdin bool
	tty   ttyMode
	// ended, if there is one, says at the end what else there is to know of the guest's work.
	ended func()
}

// attach runs request in the guest with this process' streams and returns its exit
// status as an exitError, nil for 0. The terminal is as it was when it returns.
func (a *app) attach(ctx context.Context, box *sandbox, request control.ExecRequest, how attachment) error {
	if err := awake(ctx, box); err != nil {
		return exitError{statusSbx, err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	streams := control.Streams{Stdout: a.Out, Stderr: a.Err}
	if how.stdin {
		streams.Stdin = endOnError{a.In}
	}
	restore := func() {}
	if a.wantsTTY(how) {
		back, err := a.makeRaw()
		if err != nil {
			return exitError{statusSbx, err}
		}
		restore = sync.OnceFunc(back)
		defer restore()
		request.TTY, request.Term = true, a.getenv("TERM")
		size := a.size()
		request.Rows, request.Cols = size.Rows, size.Cols
		streams.Resize = a.watchSize(ctx)
	}
	before, _ := a.settle(ctx, box)
	streams.Signals = forwardSignals(ctx, cancel)
	out, stop := a.watchQuestions(ctx, box, request.TTY)
	streams.Stdout = out
	started, logged := time.Now(), filesLogSize(box)
	status, err := box.client.Exec(ctx, request, streams)
	stop()
	restore() // what follows is for a terminal that is not raw
	if err != nil {
		return exitError{statusSbx, err}
	}
	a.reportRefusals(box, logged)
	a.reportMirror(ctx, box, before)
	if status != 0 {
		a.reportDenials(ctx, box, started)
	}
	if request.TTY {
		a.reportUnanswered(ctx, box, started, status != 0)
	}
	if how.ended != nil {
		how.ended()
	}
	if status == 0 {
		return nil
	}
	return exitError{status: status}
}

// awake is an error where QEMU has halted the guest: a command would wait for ever.
func awake(ctx context.Context, box *sandbox) error {
	status, err := box.client.Status(ctx)
	if err != nil || status.State != machine.Paused {
		return err
	}
	return hintf(fmt.Errorf("sandbox %q is paused: %s", box.name, status.Reason), "mend the cause, then: sbx restart %s", box.name)
}

func (a *app) wantsTTY(how attachment) bool {
	switch how.tty {
	case ttyYes:
		return true
	case ttyNo:
		return false
	default:
		return how.stdin && isTerminal(a.In) && isTerminal(a.Out)
	}
}

// makeRaw gives the keys to the guest's terminal, if there is one here.
func (a *app) makeRaw() (restore func(), err error) {
	fd, ok := terminal(a.In)
	if !ok {
		return func() {}, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(fd, state) }, nil //nolint:errcheck // there is no other way to set it back
}

// size returns the terminal's size, or one that programs expect of none.
func (a *app) size() control.WinSize {
	for _, stream := range []any{a.Out, a.In} {
		if fd, ok := terminal(stream); ok {
			if cols, rows, err := term.GetSize(fd); err == nil {
				return control.WinSize{Rows: rows, Cols: cols}
			}
		}
	}
	return control.WinSize{Rows: 24, Cols: 80}
}

// watchSize sends the terminal's size whenever it changes, until ctx ends. Only the
// last of several changes matters, so one place in the channel is enough.
func (a *app) watchSize(ctx context.Context) <-chan control.WinSize {
	changes, sizes := make(chan os.Signal, 1), make(chan control.WinSize, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changes)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changes:
			}
			select {
			case sizes <- a.size():
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// maxForwarded is how many signals the guest's command may ignore before the next
// one ends sbx itself (and with it, by hang-up, the command).
const maxForwarded = 3

// forwardSignals sends what would end this process to the guest's command instead,
// by SSH's names (RFC 4254, 6.10), until ctx ends.
func forwardSignals(ctx context.Context, giveUp func()) <-chan string {
	names := map[os.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGQUIT: "QUIT"}
	caught, out := make(chan os.Signal, 1), make(chan string, maxForwarded)
	for sig := range names {
		signal.Notify(caught, sig)
	}
	go func() {
		defer signal.Stop(caught)
		for n := 0; ; n++ {
			var sig os.Signal
			select {
			case <-ctx.Done():
				return
			case sig = <-caught:
			}
			if n == maxForwarded {
				giveUp()
				return
			}
			select {
			case out <- names[sig]:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// endOnError makes any end of stdin an end of file: a closed descriptor and a
// terminal that went away mean that no more is coming.
type endOnError struct{ io.Reader }

func (r endOnError) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}
