package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/term"
)

// Streams is what a command may touch of its process.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Env      []string // "KEY=value"
	Dir      string   // the current folder, absolute
	Version  string   // of this build, may be empty
}

// System returns the process' own streams.
func System(version string) Streams {
	// Without a current folder (it was removed) only commands with a NAME work;
	// they say so where they need it.
	dir, _ := os.Getwd() //nolint:errcheck // see above: empty means unknown
	return Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ(), Dir: dir, Version: version}
}

// getenv returns the last value of key, as the system's own does not promise but
// every shell does.
func (s Streams) getenv(key string) string {
	value := ""
	for _, pair := range s.Env {
		if k, v, ok := strings.Cut(pair, "="); ok && k == key {
			value = v
		}
	}
	return value
}

// version returns the version set at build time, else what the Go tool wrote down.
func (s Streams) version() string {
	if s.Version != "" {
		return s.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// terminal returns the descriptor of stream if it is a terminal.
func terminal(stream any) (fd int, ok bool) {
	file, isFile := stream.(interface{ Fd() uintptr })
	if !isFile {
		return -1, false
	}
	fd = int(file.Fd())
	return fd, term.IsTerminal(fd)
}

func isTerminal(stream any) bool {
	_, ok := terminal(stream)
	return ok
}

// warn writes a message that is not an error to stderr.
func (s Streams) warn(text string) {
	fmt.Fprintln(s.Err, "sbx: "+printable(text))
}

// say writes progress that is worth keeping, to a terminal only.
func (s Streams) say(format string, args ...any) {
	if isTerminal(s.Err) {
		fmt.Fprintln(s.Err, printable(fmt.Sprintf(format, args...)))
	}
}

// confirm asks a yes/no question on the terminal; anything but yes is an error that says no. The
// caller checks that there is a terminal, see canAsk.
func (s Streams) confirm(ctx context.Context, question, no string) error {
	answer, err := s.askWord(ctx, question+" [y/N]")
	if err == nil && answer != "y" && answer != "yes" {
		err = errors.New(no)
	}
	return err
}

// askWord asks on the terminal and returns what is typed, in lower case; the end of input is nothing. When ctx
// ends, by Ctrl-C, nobody waits for the line that is still to come: a read cannot be called back.
func (s Streams) askWord(ctx context.Context, question string) (string, error) {
	fmt.Fprint(s.Err, printable(question)+" ")
	typed := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(s.In).ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(s.Err)
		}
		typed <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case word := <-typed:
		return word, nil
	case <-ctx.Done():
		fmt.Fprintln(s.Err)
		return "", exitError{statusAsked, errInterrupted}
	}
}

func (s Streams) canAsk() bool { return isTerminal(s.In) && isTerminal(s.Err) }

// logger writes to stderr, for the processes that sbx runs as.
func (s Streams) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s.Err, nil)) }
