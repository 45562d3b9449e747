package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/mirror"
	"github.com/sbx-vm/sbx/sync/mirror/agent"
)

// The words by which this program starts itself as an end of our mirror.
const (
	mirrorWord     = "sync-host"  // what the supervisor does
	mirrorAgent    = "sync-agent" // the guest's end: what is where
	mirrorContents = "sync-sftp"  // and the contents
)

// sbxMirror is a supervisor's mirror, alone in its process.
type sbxMirror struct {
	dir  string
	cmd  *exec.Cmd
	to   io.WriteCloser
	from *bufio.Reader
}

func (s *sbxMirror) begin(ctx context.Context) error {
	s.cmd = exec.CommandContext(ctx, "/proc/self/exe", mirrorWord, s.dir)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.from = bufio.NewReader(out)
	if s.to, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	return s.cmd.Start()
}

func (s *sbxMirror) flush(context.Context) error {
	_, err := fmt.Fprintln(s.to, "flush")
	line, readErr := s.from.ReadString('\n')
	if err := errors.Join(err, readErr); err != nil {
		return err
	}
	if line != "ok\n" {
		return errors.New(strings.TrimSpace(line))
	}
	return nil
}

func (s *sbxMirror) watch(context.Context) (bool, error) { return true, nil }

func (s *sbxMirror) peak() (float64, error) {
	ends, err := withEnv(childMark + "=" + s.dir)
	if err != nil {
		return 0, err
	}
	return peakOf(append(ends, s.cmd.Process.Pid)...)
}

func (s *sbxMirror) end() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.to.Close()
		s.cmd.Wait() //nolint:errcheck // its output was read
	}
}

// childMark names the variable that the guest's ends are found by.
const childMark = "SBX_BENCH_SYNC"

// runMirror mirrors the folders of the one that args name and flushes at each line that it reads.
func runMirror(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("one folder is expected")
	}
	dir := args[0]
	if err := os.Mkdir(filepath.Join(dir, "journal"), 0o700); err != nil {
		return err
	}
	kept, err := journal.Record(filepath.Join(dir, "journal"), "workspace", "bench", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer kept.Close()
	s, err := mirror.Start(ctx, mirror.Config{
		Root: filepath.Join(dir, hostSide), State: filepath.Join(dir, "state"), Journal: kept, Reserve: 1,
		Remote: mirror.Remote{Dir: filepath.Join(dir, farSide), Agent: child(dir, mirrorAgent), SFTP: child(dir, mirrorContents)},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer := "ok"
		if err := s.Flush(ctx); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Println(answer)
	}
	return nil
}

// pipes is a child's standard input and output.
type pipes struct {
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

func (p pipes) Close() error {
	err := p.WriteCloser.Close()
	timer := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() }) //nolint:errcheck // it has ended then
	defer timer.Stop()
	return errors.Join(err, p.cmd.Wait())
}

func child(dir, word string) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		cmd := exec.Command("/proc/self/exe", word) //nolint:noctx // it ends with its input
		cmd.Env, cmd.Stderr = append(os.Environ(), childMark+"="+dir), os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		return pipes{out, in, cmd}, cmd.Start()
	}
}

func runMirrorAgent(ctx context.Context) error { return agent.Serve(ctx, os.Stdin, os.Stdout) }

func runMirrorContents() error {
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	if err != nil {
		return err
	}
	return server.Serve()
}
