package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// prompted runs askHidden on a terminal and returns what becomes of it, once the prompt is there.
func prompted(ctx context.Context, t *testing.T) (keyboard *os.File, tty *os.File, done <-chan string) {
	t.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close(); tty.Close() })
	a := &app{Streams: Streams{In: tty, Out: io.Discard, Err: io.Discard}}
	answer := make(chan string, 1)
	go func() {
		value, err := a.askHidden(ctx, int(tty.Fd()), "Value: ")
		if err != nil {
			value = "error: " + err.Error()
		}
		answer <- value
	}()
	for echo := true; echo; time.Sleep(time.Millisecond) {
		state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		echo = state.Lflag&unix.ECHO != 0
	}
	return keyboard, tty, answer
}

func TestValuesAreAskedForHidden(t *testing.T) {
	keyboard, tty, answer := prompted(t.Context(), t)
	if _, err := keyboard.WriteString("sk-typed\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got != "sk-typed" {
		t.Errorf("read %q", got)
	}
	if _, err := tty.WriteString("END"); err != nil {
		t.Fatal(err)
	}
	var shown []byte
	for buf := make([]byte, 64); !bytes.Contains(shown, []byte("END")); {
		n, err := keyboard.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, buf[:n]...)
	}
	if bytes.Contains(shown, []byte("sk")) {
		t.Errorf("the terminal shows %q", shown)
	}
}

// TestHiddenQuestionIsInterrupted: Ctrl-C ends it, the terminal shows again what is typed.
func TestHiddenQuestionIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	keyboard, tty, answer := prompted(ctx, t)
	defer keyboard.WriteString("\n") // for the reader that is left
	cancel()
	if got := <-answer; got != "error: interrupted" {
		t.Errorf("%q", got)
	}
	if state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal shows nothing that is typed (%v)", err)
	}
}
