package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sbx-vm/sbx/machine/store"
)

// Command is the hidden command of sbx that must call [Run]; ReadyFD is where it
// finds the readiness pipe.
const (
	Command = "supervise"
	ReadyFD = 3
)

// Launch starts the supervisor of a sandbox as a process of its own and returns
// when the sandbox takes commands. The end of ctx before that ends it again. The
// caller holds the sandbox's work lock.
func Launch(ctx context.Context, files *store.Sandbox, self string, progress func(Phase)) error {
	ready, child, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd, err := detached(files, self, child)
	child.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // what it has to say comes by the pipe
		close(ended)
	}()
	told := make(chan error, 1)
	go func() { told <- listen(ready, progress) }()
	select {
	case err := <-told:
		if errors.Is(err, errSilent) {
			<-ended
			return fmt.Errorf("the supervisor ended without a word: see %s", files.SupervisorLog())
		}
		return err
	case <-ctx.Done():
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill() //nolint:errcheck // see above
			<-ended
		}
		return context.Cause(ctx)
	}
}

// detached starts the process in a session of its own, so that it survives the
// terminal; its descriptors are /dev/null, its log and the pipe.
func detached(files *store.Sandbox, self string, ready *os.File) (*exec.Cmd, error) {
	log, err := os.OpenFile(files.SupervisorLog(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(self, Command, files.Name()) //nolint:noctx // it outlives the command that starts it
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", log, log, []*os.File{ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	return cmd, nil
}

var errSilent = errors.New("no readiness message")

func listen(ready io.Reader, progress func(Phase)) error {
	lines := bufio.NewScanner(ready)
	for lines.Scan() {
		var m Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("readiness message %q: %w", lines.Text(), err)
		}
		switch {
		case m.Error != "":
			return errors.New(strings.TrimSpace(m.Error))
		case m.Ready:
			return nil
		default:
			progress(m.Phase)
		}
	}
	return errSilent
}

// Teller writes messages to the readiness pipe, which must not reach the children:
// one that kept it open would keep the command line waiting.
func Teller(fd int) func(Message) {
	syscall.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "ready")
	return func(m Message) {
		if pipe == nil {
			return
		}
		if err := json.NewEncoder(pipe).Encode(m); err != nil || m.Ready || m.Error != "" {
			pipe.Close()
			pipe = nil
		}
	}
}
