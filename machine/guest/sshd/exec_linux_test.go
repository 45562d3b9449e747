package sshd

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// outcome is how a command ended.
type outcome struct {
	out, err string
	status   int
	signal   string
}

func run(t *testing.T, client *ssh.Client, c Command, stdin io.Reader) outcome {
	t.Helper()
	payload, err := c.Encode()
	if err != nil {
		t.Error(err)
	}
	return runPayload(t, client, payload, stdin)
}

func runPayload(t *testing.T, client *ssh.Client, payload string, stdin io.Reader) outcome {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Error(err)
		return outcome{}
	}
	defer session.Close()
	var out, errs bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &out, &errs
	err = session.Run(payload)
	got := outcome{out: out.String(), err: errs.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		got.status, got.signal = exit.ExitStatus(), exit.Signal()
	case err != nil:
		t.Errorf("%q: %v", payload, err)
	}
	return got
}

func startCommand(t *testing.T, client *ssh.Client, c Command) (*ssh.Session, *bufio.Reader) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(payload); err != nil {
		t.Fatal(err)
	}
	return session, bufio.NewReader(out)
}

func readPid(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		t.Fatalf("pid %q", line)
	}
	return pid
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

func sh(script string, args ...string) Command {
	return Command{Argv: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func TestHowCommandsEnd(t *testing.T) {
	client := newWorld(t).client(t)
	dir := t.TempDir()
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{"data": {"text", 0o644}, "noformat": {"\x00\x01", 0o755}, "ok": {"#!/bin/sh\nexit 4\n", 0o755}} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		command Command
		status  int
		signal  string
	}{
		{sh("exit 0"), 0, ""}, {sh("exit 1"), 1, ""}, {sh("exit 128"), 128, ""}, {sh("exit 255"), 255, ""},
		{sh("kill -TERM $$"), 143, "TERM"}, {sh("kill -KILL $$"), 137, "KILL"}, {sh("kill -SEGV $$"), 139, "SEGV"},
		{Command{Argv: []string{"no-such-command"}}, 127, ""},
		{Command{Argv: []string{dir + "/missing"}}, 127, ""},
		{Command{Argv: []string{dir + "/data"}}, 126, ""},
		{Command{Argv: []string{dir}}, 126, ""},
		{Command{Argv: []string{dir + "/noformat"}}, 126, ""},
		{Command{Argv: []string{"data"}, Env: map[string]string{"PATH": dir}}, 126, ""},
		{Command{Argv: []string{"ok"}, Env: map[string]string{"PATH": dir}}, 4, ""},
		{Command{Argv: []string{"./ok"}, Dir: dir}, 4, ""},
		{Command{Argv: []string{"true"}, Dir: dir + "/missing"}, 126, ""},
		{Command{Argv: []string{"true"}, User: "no such user"}, 126, ""},
		{Command{Argv: []string{"a\x00b"}}, 127, ""},
		{Command{Argv: []string{"true", "a\x00b"}}, 126, ""},
		{Command{Argv: []string{""}}, 127, ""},
	} {
		got := run(t, client, c.command, nil)
		// x/crypto gives a signal's status as 128 and its number for those that it knows.
		if got.signal != c.signal || got.status != c.status {
			t.Errorf("%q: status %d, signal %q, want %d %q (%s)", c.command.Argv, got.status, got.signal, c.status, c.signal, got.err)
		}
		if c.status == 126 && got.err == "" {
			t.Errorf("%q: no word about why", c.command.Argv)
		}
	}
}

func TestWordsAndEnvironment(t *testing.T) {
	w := newWorld(t)
	client := w.client(t)
	if got := run(t, client, sh(`printf '%s|' "$@"`, "a b", "", "$HOME", "'", "*", "\n"), nil); got.out != "a b||$HOME|'|*|\n|" {
		t.Errorf("words arrive as %q", got.out)
	}
	if got := run(t, client, Command{Argv: []string{"pwd"}}, nil); strings.TrimSpace(got.out) != w.server.Starter.Workdir {
		t.Errorf("commands start in %q", got.out)
	}
	c := sh("echo $FROM $USER $HOME")
	if got := run(t, client, c, nil); got.out != "sandbox agent /home/agent\n" {
		t.Errorf("environment %q", got.out)
	}
	c.Env = map[string]string{"FROM": "command", "HOME": "/x"}
	if got := run(t, client, c, nil); got.out != "command agent /x\n" {
		t.Errorf("environment %q", got.out)
	}
	if got := runPayload(t, client, "echo $((6*7)) 'a  b'", nil); got.out != "42 a  b\n" {
		t.Errorf("a command line without the prefix: %q", got.out)
	}
	// A pipe of ours must not be the command's own business.
	if got := run(t, client, sh("grep flags /proc/self/fdinfo/0 /proc/self/fdinfo/1"), nil); got.status != 0 || strings.Contains(got.out, "4000") {
		t.Errorf("O_NONBLOCK on the command's descriptors: %q", got.out)
	}
	w.server.Starter.Workdir = filepath.Join(t.TempDir(), "gone")
	if got := run(t, client, Command{Argv: []string{"true"}}, nil); got.status != 0 {
		t.Errorf("without its workspace: %+v", got)
	}
}

func TestStdin(t *testing.T) {
	client := newWorld(t).client(t)
	in := bytes.Repeat([]byte("\x00\xff\r\n\x1a\x04"), 200_000)
	if got := run(t, client, Command{Argv: []string{"cat"}}, bytes.NewReader(in)); got.out != string(in) {
		t.Errorf("%d bytes went in, %d came out", len(in), len(got.out))
	}
	if got := run(t, client, Command{Argv: []string{"cat"}}, nil); got.out != "" || got.status != 0 {
		t.Errorf("no input: %+v", got)
	}
	// A command that reads none of a large input ends all the same.
	if got := run(t, client, sh("exit 3"), io.LimitReader(neverEnding{}, 8<<20)); got.status != 3 {
		t.Errorf("unread input: %+v", got)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// All of a command's output arrives, however late it is read, and nobody else waits.
func TestSlowReader(t *testing.T) {
	client := newWorld(t).client(t)
	const size = 32 << 20
	session, out := startCommand(t, client, Command{Argv: []string{"head", "-c", strconv.Itoa(size), "/dev/zero"}})
	defer session.Close()
	if got := run(t, client, sh("echo beside"), nil); got.out != "beside\n" {
		t.Errorf("beside a command that waits for its reader: %+v", got)
	}
	sum := sha256.New()
	if n, err := io.Copy(sum, out); n != size || err != nil {
		t.Errorf("%d of %d bytes: %v", n, size, err)
	}
	if err := session.Wait(); err != nil {
		t.Error(err)
	}
	// The last words of a command that ended long before they are read.
	session, out = startCommand(t, client, sh("head -c 60000 /dev/zero; exit 5"))
	defer session.Close()
	time.Sleep(300 * time.Millisecond)
	if n, err := io.Copy(io.Discard, out); n != 60000 || err != nil {
		t.Errorf("%d of 60000 bytes: %v", n, err)
	}
}

func TestHundred(t *testing.T) {
	client := newWorld(t).client(t)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			want := strconv.Itoa(i) + "\n"
			if got := run(t, client, sh("echo $1; exit $1", strconv.Itoa(i)), nil); got.status != i || got.out != want {
				t.Errorf("command %d: %+v", i, got)
			}
		})
	}
	all.Wait()
}

func TestSignals(t *testing.T) {
	client := newWorld(t).client(t)
	session, out := startCommand(t, client, sh("trap 'echo bye; exit 9' TERM; echo $$; while :; do sleep 0.05; done"))
	defer session.Close()
	readPid(t, out)
	for _, bad := range []ssh.Signal{"", "NONE", "SIGTERM", "term"} {
		if err := session.Signal(bad); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.Signal(ssh.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 9 || string(rest) != "bye\n" {
		t.Errorf("%v, %q", err, rest)
	}
}

// What a command leaves in the background lives on after it, quiet or not, and the
// command's end does not wait for it.
func TestBackground(t *testing.T) {
	client := newWorld(t).client(t)
	for name, script := range map[string]string{
		"quiet":        "sleep 60 >/dev/null 2>&1 & echo $!; exit 6",
		"holds stdout": "sleep 60 & echo $!; exit 6",
		"keeps silent": "trap '' PIPE; (sleep 60; echo late) & echo $!; exit 6",
	} {
		begin := time.Now()
		got := run(t, client, sh(script), nil)
		pid, err := strconv.Atoi(strings.TrimSpace(got.out))
		if got.status != 6 || err != nil || time.Since(begin) > 5*time.Second {
			t.Fatalf("%s: %+v after %v", name, got, time.Since(begin))
		}
		time.Sleep(50 * time.Millisecond)
		if !alive(pid) {
			t.Errorf("%s: ended with its command", name)
		}
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // the tester's own
	}
	begin := time.Now()
	if got := run(t, client, sh("yes & sleep 0.1; exit 6"), nil); got.status != 6 || time.Since(begin) > 8*time.Second {
		t.Errorf("a chatty one: status %d after %v", got.status, time.Since(begin))
	}
}

// A client that goes takes its command along, also one that would not go.
func TestClientGoes(t *testing.T) {
	client := newWorld(t).client(t)
	mark := filepath.Join(t.TempDir(), "hup")
	for name, script := range map[string]string{
		"polite":   "trap 'echo > " + mark + "; exit' HUP; echo $$; while :; do sleep 0.05; done",
		"stubborn": "trap '' HUP TERM; echo $$; while :; do sleep 0.05; done",
	} {
		session, out := startCommand(t, client, sh(script))
		pid := readPid(t, out)
		session.Close()
		within(t, name+" is gone", func() bool { return !alive(pid) })
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("no SIGHUP came first: %v", err)
	}
}

func TestOneCommandPerSession(t *testing.T) {
	client := newWorld(t).client(t)
	// Not cat: its input is at an end, and the requests would race with the session's.
	session, out := startCommand(t, client, sh("echo $$; exec sleep 60"))
	defer session.Close()
	readPid(t, out)
	for _, r := range []struct {
		kind    string
		payload []byte
	}{
		{"exec", ssh.Marshal(struct{ V string }{"true"})},
		{"shell", nil},
		{"subsystem", ssh.Marshal(struct{ V string }{"sftp"})},
		{"env", ssh.Marshal(struct{ K, V string }{"A", "B"})},
		{"pty-req", ssh.Marshal(struct {
			Term         string
			W, H, PW, PH uint32
			Modes        string
		}{"xterm", 80, 24, 0, 0, ""})},
		{"x11-req", nil},
		{"auth-agent-req@openssh.com", nil},
		{"window-change", []byte{1}},
	} {
		if ok, err := session.SendRequest(r.kind, true, r.payload); ok || err != nil {
			t.Errorf("%s beside a command: %v %v", r.kind, ok, err)
		}
	}
}

func TestTerminal(t *testing.T) {
	client := newWorld(t).client(t)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.RequestPty("vt100", 30, 111, nil); err != nil {
		t.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var screen syncBuffer
	session.Stdout = &screen
	payload, err := sh(`tty; echo $TERM; stty size; read x; stty size; echo got $x; ps -o tty= -p $$; exit 7`).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(payload); err != nil {
		t.Fatal(err)
	}
	within(t, "the size", func() bool { return strings.Contains(screen.String(), "30 111") })
	for range 100 { // a storm of sizes
		if err := session.WindowChange(1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.WindowChange(40, 99); err != nil {
		t.Fatal(err)
	}
	// A request with an answer, so that the sizes have arrived.
	if _, err := session.SendRequest("nothing", true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "typed\r"); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"/dev/pts/", "vt100", "40 99", "got typed", "pts/"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("%q is not in %q", want, screen.String())
		}
	}
}

// Ctrl-C on the terminal reaches what runs there; the end of input is one there too.
func TestTerminalKeys(t *testing.T) {
	client := newWorld(t).client(t)
	for name, c := range map[string]struct {
		script, keys string
		status       int
	}{
		"interrupt": {"trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done", "\x03", 5},
		"end":       {"echo ready; cat; exit 4", "\x04", 4},
		"hang up":   {"echo ready; cat; exit 3", "", 3},
	} {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
		in, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var screen syncBuffer
		session.Stdout = &screen
		payload, err := sh(c.script).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start(payload); err != nil {
			t.Fatal(err)
		}
		within(t, name+": ready", func() bool { return strings.Contains(screen.String(), "ready") })
		io.WriteString(in, c.keys)
		if c.keys == "" {
			in.Close()
		}
		var exit *ssh.ExitError
		if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != c.status {
			t.Errorf("%s: %v, %q", name, err, screen.String())
		}
		session.Close()
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
