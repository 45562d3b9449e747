package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// hangupGrace is what a command has between the end of its client and SIGKILL.
const hangupGrace = 2 * time.Second

// maxEnv bounds the variables that a client sets before its command.
const maxEnv = 1024

type window struct{ Columns, Rows, Width, Height uint32 }

// session is one SSH session channel: at most one command.
type session struct {
	server  *Server
	channel ssh.Channel
	env     map[string]string
	tty     *window

	started bool
	mu      sync.Mutex
	gone    bool // the client: what starts now ends at once
	proc    *process
	ptmx    *os.File
	done    chan struct{} // closed when the command's status has been sent
}

func newSession(s *Server, channel ssh.Channel) *session {
	return &session{server: s, channel: channel, env: map[string]string{}, done: make(chan struct{})}
}

// run answers requests until the channel ends. A client that goes before its
// command has ended takes the command with it.
func (s *session) run(ctx context.Context, requests <-chan *ssh.Request) {
	defer s.channel.Close()
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				s.abandoned()
				return
			}
			s.server.reply(r, s.request(r))
		case <-s.done:
			return
		case <-ctx.Done():
			s.abandoned()
			return
		}
	}
}

// abandoned ends a command whose client went before it. One that has ended keeps
// what it left in the background, as after ssh: only its last output has no reader.
func (s *session) abandoned() {
	s.mu.Lock()
	s.gone = true
	p := s.proc
	s.mu.Unlock()
	if p == nil || !p.running() {
		return
	}
	p.signal(syscall.SIGHUP)
	select {
	case <-s.done:
	case <-time.After(hangupGrace):
	}
	p.kill()
}

func (s *session) request(r *ssh.Request) bool {
	switch r.Type {
	case "env":
		var kv struct{ Name, Value string }
		if s.started || ssh.Unmarshal(r.Payload, &kv) != nil || len(s.env) >= maxEnv || strings.ContainsAny(kv.Name, "=\x00") || strings.Contains(kv.Value, "\x00") {
			return false
		}
		s.env[kv.Name] = kv.Value
		return true
	case "pty-req":
		return !s.started && s.wantTerminal(r.Payload)
	case "window-change":
		return s.resize(r.Payload)
	case "signal":
		return s.signal(r.Payload)
	case "exec", "shell", "subsystem":
		if s.started {
			return false
		}
		s.started = true
		return s.begin(r)
	default:
		return false
	}
}

func (s *session) wantTerminal(payload []byte) bool {
	var p struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := ssh.Unmarshal(payload, &p); err != nil || strings.Contains(p.Term, "\x00") {
		return false
	}
	s.env["TERM"], s.tty = p.Term, &window{p.Columns, p.Rows, p.Width, p.Height}
	return true
}

func (s *session) resize(payload []byte) bool {
	var w window
	s.mu.Lock()
	defer s.mu.Unlock()
	if ssh.Unmarshal(payload, &w) != nil || s.ptmx == nil {
		return false
	}
	return pty.Setsize(s.ptmx, w.size()) == nil
}

func (w window) size() *pty.Winsize {
	return &pty.Winsize{Rows: uint16(min(w.Rows, 1<<15)), Cols: uint16(min(w.Columns, 1<<15))}
}

func (s *session) signal(payload []byte) bool {
	var name struct{ Name string }
	s.mu.Lock()
	defer s.mu.Unlock()
	if ssh.Unmarshal(payload, &name) != nil || s.proc == nil {
		return false
	}
	sig := unix.SignalNum("SIG" + name.Name)
	if sig == 0 {
		return false
	}
	s.proc.signal(sig)
	return true
}

// begin starts the command that a request names. A command that cannot start is
// no protocol error: it has a status, as in a shell.
func (s *session) begin(r *ssh.Request) bool {
	command := loginShell()
	if r.Type != "shell" {
		var text struct{ Value string }
		if err := ssh.Unmarshal(r.Payload, &text); err != nil {
			return false
		}
		if r.Type == "subsystem" && !slices.Contains([]string{SubsystemFiles, SubsystemMirror, SubsystemNudge}, text.Value) {
			return false
		}
		var err error
		if command, err = decode(text.Value); err != nil {
			return false
		}
		if r.Type == "subsystem" {
			command = Command{Argv: []string{"/proc/self/exe", text.Value}}
		}
	}
	go s.execute(command)
	return true
}

func (s *session) execute(c Command) {
	defer close(s.done)
	var err error
	if s.tty != nil {
		err = s.onTerminal(c)
	} else {
		err = s.onPipes(c)
	}
	if err != nil {
		fmt.Fprintf(s.channel.Stderr(), "sbx: %v\r\n", err)
		s.exitStatus(uint32(startStatus(err)))
	}
}

// streams are the agent's ends of a command's standard streams.
type streams struct {
	stdin          *os.File
	stdout, stderr *os.File
}

func (s *session) onPipes(c Command) error {
	var child, ours [3]*os.File
	for i := range child {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(child[:]...)
			closeAll(ours[:]...)
			return err
		}
		child[i], ours[i] = w, r
		if i == 0 {
			child[i], ours[i] = r, w
		}
	}
	p, err := s.server.Starter.start(c, s.env, child[0], child[1], child[2], false)
	closeAll(child[:]...)
	if err != nil {
		closeAll(ours[:]...)
		return err
	}
	s.attached(p, nil)
	s.attend(p, streams{ours[0], ours[1], ours[2]})
	return nil
}

func (s *session) onTerminal(c Command) error {
	ptmx, tty, err := pty.Open()
	if err != nil {
		return err
	}
	if err := pty.Setsize(ptmx, s.tty.size()); err != nil {
		closeAll(ptmx, tty)
		return err
	}
	if !s.server.Starter.Plain {
		if who, err := s.server.Starter.account(c.User); err == nil {
			tty.Chown(int(who.uid), int(who.gid)) //nolint:errcheck // only `mesg` and `script` care
		}
	}
	p, err := s.server.Starter.start(c, s.env, tty, tty, tty, true)
	tty.Close()
	if err != nil {
		ptmx.Close()
		return err
	}
	s.attached(p, ptmx)
	s.attend(p, streams{stdin: ptmx, stdout: ptmx})
	return nil
}

func (s *session) attached(p *process, ptmx *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc, s.ptmx = p, ptmx
	if s.gone {
		p.kill()
	}
}

// attend copies a command's streams until it has ended and what it wrote has been
// passed on, then says how it ended. Background processes that keep a stream open
// do not hold it up.
func (s *session) attend(p *process, st streams) {
	go s.feed(st)
	var outputs sync.WaitGroup
	outputs.Go(func() { drain(s.channel, st.stdout) })
	if st.stderr != nil {
		outputs.Go(func() { drain(s.channel.Stderr(), st.stderr) })
	}
	err := p.wait()
	soon := time.Now().Add(100 * time.Millisecond)
	for _, f := range []*os.File{st.stdout, st.stderr} {
		if f != nil {
			f.SetReadDeadline(soon) //nolint:errcheck // a file that has no deadline ends with its writers
		}
	}
	outputs.Wait()
	s.mu.Lock()
	s.ptmx = nil
	s.mu.Unlock()
	closeAll(st.stdin, st.stdout, st.stderr)
	if p.overflowed() {
		fmt.Fprintf(s.channel.Stderr(), "sbx: the command ran into its limit of %d processes: what it left is ended\r\n", p.cgroups.limit)
	}
	p.release()
	s.exited(p, err)
}

// feed passes the client's input on. The end of input closes a pipe; on a
// terminal it is the end-of-file character.
func (s *session) feed(st streams) {
	io.Copy(st.stdin, s.channel) //nolint:errcheck // the command stopped reading, or the client is gone
	if st.stderr == nil {
		st.stdin.Write([]byte{4}) //nolint:errcheck // see above
		return
	}
	st.stdin.Close()
}

// maxLeft is the most that the kernel keeps in a pipe (/proc/sys/fs/pipe-max-size).
// What comes after so much was written later than a command's end.
const maxLeft = 1 << 20

// drain copies until the end of the stream, or, once a deadline has passed, until
// nothing is left in it of what was there.
func drain(to io.Writer, from *os.File) {
	_, err := io.Copy(to, from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if from.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for left := maxLeft; left > 0; {
		n := 0
		if err := raw.Read(func(fd uintptr) bool { n, _ = unix.Read(int(fd), buf); return true }); err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		left -= n
	}
}

func (s *session) exited(p *process, err error) {
	state := p.cmd.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		s.exitSignal(status)
		return
	}
	if state == nil || state.ExitCode() < 0 {
		s.server.Log.Error("command ended without a status", "error", err)
		s.exitStatus(255)
		return
	}
	s.exitStatus(uint32(state.ExitCode()))
}

func (s *session) exitStatus(code uint32) {
	s.channel.CloseWrite()                                                                  //nolint:errcheck // the client is gone
	s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code})) //nolint:errcheck // see above
}

func (s *session) exitSignal(status syscall.WaitStatus) {
	name := strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	if name == "" {
		name = fmt.Sprint(int(status.Signal())) // real-time signals have no name
	}
	s.channel.CloseWrite()                                           //nolint:errcheck // see above
	s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct { //nolint:errcheck // see above
		Signal     string
		Core       bool
		Text, Lang string
	}{name, status.CoreDump(), "", ""}))
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
