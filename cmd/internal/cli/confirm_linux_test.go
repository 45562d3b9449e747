package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
)

// confirmed asks on a terminal as a command does and returns its exit status once an answer is there; answer runs
// when the question is shown.
func confirmed(t *testing.T, answer func(keyboard io.Writer) error) (status int, text string) {
	t.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	defer keyboard.Close() // ends the read that may be left
	a := &app{Streams: Streams{In: tty, Out: io.Discard, Err: tty}}
	command := &cobra.Command{RunE: interruptible(func(ctx context.Context, _ []string) error {
		return a.confirm(ctx, "agree?", "nothing was agreed to")
	}), SilenceErrors: true, SilenceUsage: true}
	command.SetContext(t.Context())
	done := make(chan error, 1)
	go func() { done <- command.RunE(command, nil) }()
	readUntil(t, keyboard, "agree? [y/N] ")
	if err := answer(keyboard); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		var shown bytes.Buffer
		printError(&shown, err)
		return exitStatus(err), shown.String()
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for Enter")
		return 0, ""
	}
}

func typed(text string) func(io.Writer) error {
	return func(keyboard io.Writer) error {
		_, err := io.WriteString(keyboard, text)
		return err
	}
}

func TestQuestionsTakeAnAnswer(t *testing.T) {
	for text, want := range map[string]int{"y\n": 0, "YES\n": 0, "\n": statusFailed, "no\n": statusFailed, "\x04": statusFailed} {
		if status, said := confirmed(t, typed(text)); status != want {
			t.Errorf("%q: status %d, %q", text, status, said)
		}
	}
}

// TestQuestionsAreInterrupted: Ctrl-C ends a question without Enter, and is no answer.
func TestQuestionsAreInterrupted(t *testing.T) {
	status, said := confirmed(t, func(io.Writer) error { return syscall.Kill(os.Getpid(), syscall.SIGINT) })
	if status != 130 || said != "sbx: interrupted\n" {
		t.Errorf("status %d, %q", status, said)
	}
}
