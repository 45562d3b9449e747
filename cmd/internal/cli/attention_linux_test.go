package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/sbx-vm/sbx/machine/control"
)

// rawScreen is a terminal as `sbx run` leaves it to a program, and what a person's terminal gets of it.
func rawScreen(t *testing.T) (s *screen, shown func(until string) string) {
	t.Helper()
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close(); tty.Close() })
	if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
		t.Fatal(err)
	}
	return &screen{w: tty}, func(until string) string { return readUntil(t, person, until) }
}

func readUntil(t *testing.T, from *os.File, until string) string {
	t.Helper()
	var got []byte
	for one := make([]byte, 1); !bytes.HasSuffix(got, []byte(until)); {
		if _, err := from.Read(one); err != nil {
			t.Fatalf("%q, then %v", got, err)
		}
		got = append(got, one...)
	}
	return string(got)
}

// asked plays the supervisor: each list is the next state of the questions; then ctx ends.
func asked(states ...[]control.Question) (wait func(context.Context, uint64) (control.Pending, error), next chan struct{}) {
	next = make(chan struct{})
	return func(ctx context.Context, seen uint64) (control.Pending, error) {
		select {
		case <-next:
			return control.Pending{Seen: seen + 1, Questions: states[seen]}, nil
		case <-ctx.Done():
			return control.Pending{}, ctx.Err()
		}
	}, next
}

// TestQuestionsShowBesideAProgramsScreen: bell, title and notification, and nothing else, and no title is left behind.
func TestQuestionsShowBesideAProgramsScreen(t *testing.T) {
	api := control.Question{ID: 1, Name: "api.example.com", Port: 443}
	odd := control.Question{ID: 2, Name: "a\x1b]52;c;eA==\a\nb\u202e." + strings.Repeat("x", 300) + ".evil.test", Port: 22}
	wait, next := asked([]control.Question{api}, []control.Question{api, odd}, []control.Question{odd}, nil, []control.Question{api})
	s, shown := rawScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&attention{screen: s}).watch(ctx, wait)
	}()
	check := func(until, want string) {
		t.Helper()
		if got := shown(until); got != want {
			t.Errorf("the terminal got\n%q, want\n%q", got, want)
		}
	}
	const first = "sbx: api.example.com:443? sbx policy pending"
	long := "sbx: ..." + strings.Repeat("x", maxTitleName-len(".evil.test")) + ".evil.test:22"
	next <- struct{}{}
	check("\a\a", "\x1b]2;"+first+"\a\x1b]9;"+first+"\a\a")
	next <- struct{}{}
	check("\a\a", "\x1b]2;"+long+" and 1 more? sbx policy pending\a\x1b]9;"+long+" and 1 more? sbx policy pending\a\a")
	next <- struct{}{} // one is answered: no bell for what is left
	check("\a", "\x1b]2;"+long+"? sbx policy pending\a")
	next <- struct{}{}
	check("\a", "\x1b]2;\a")
	next <- struct{}{} // known: no bell
	check("\a", "\x1b]2;"+first+"\a")
	cancel()
	<-done
	check("\a", "\x1b]2;\a")
}

func TestTitlesHoldNothingThatATerminalObeys(t *testing.T) {
	got := titleOf(control.Question{Name: "a\x1b]52;c;eA==\a\nb\u202e\x9b.test", Port: 1}, 0)
	if want := "sbx: a?]52?c?eA==??b??.test:1? sbx policy pending"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNothingIsWrittenInsideASequence: what a program draws arrives whole, also if it never rests.
func TestNothingIsWrittenInsideASequence(t *testing.T) {
	s, shown := rawScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := io.WriteString(s, "\x1b]0;half a "); err != nil {
		t.Fatal(err)
	}
	put := make(chan error, 1)
	go func() { put <- s.put(ctx, "NOTE") }()
	time.Sleep(2 * screenQuiet)
	if _, err := io.WriteString(s, "title\aX"); err != nil {
		t.Fatal(err)
	}
	if got, want := shown("NOTE"), "\x1b]0;half a title\aXNOTE"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := <-put; err != nil {
		t.Error(err)
	}
}

// TestAProgramThatNeverRestsIsWrittenBetween: after a while, and between two sequences even so.
func TestAProgramThatNeverRestsIsWrittenBetween(t *testing.T) {
	s, shown := rawScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	var drawing sync.WaitGroup
	defer drawing.Wait()
	defer cancel()
	drawing.Go(func() {
		for ctx.Err() == nil {
			io.WriteString(s, "\x1b[1;3") //nolint:errcheck // it is seen by what is read
			time.Sleep(5 * time.Millisecond)
			io.WriteString(s, "1mY") //nolint:errcheck // see above
			time.Sleep(5 * time.Millisecond)
		}
	})
	shown("Y")
	put, begin := make(chan error, 1), time.Now()
	go func() { put <- s.put(ctx, "NOTE") }()
	got := strings.TrimSuffix(shown("NOTE"), "NOTE")
	if took := time.Since(begin); took > 4*screenPatience { // less if this machine rests
		t.Errorf("it took %v", took)
	}
	if got = strings.ReplaceAll(got, "\x1b[1;31mY", ""); got != "" {
		t.Errorf("cut: %q", got)
	}
	if err := <-put; err != nil {
		t.Error(err)
	}
}

func TestEndsMidway(t *testing.T) {
	for out, want := range map[string]bool{
		"": false, "text\r\n": false, "\x1b": true, "\x1b[": true, "\x1b[1;3": true, "\x1b[1;31m": false, "\x1b[1;31mtext": false,
		"\x1b]0;title": true, "\x1b]0;title\a": false, "\x1b]0;title\x1b": true, "\x1b]0;title\x1b\\": false, "\x1bP1$r": true,
		"\x1b(": true, "\x1b(B": false, "\x1b7": false, "\xe2\x94": true, "─": false, "\x1b[m\xe2": true, "\xff": false,
	} {
		if got := endsMidway([]byte(out)); got != want {
			t.Errorf("%q: %v", out, got)
		}
	}
}
