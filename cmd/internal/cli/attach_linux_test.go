package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/control/server"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// askingBackend runs a program that draws, asks for a name that nobody answers for, and ends well.
type askingBackend struct {
	server.Backend
	asked, ended chan struct{}
}

func (askingBackend) Status() machine.Status { return machine.Status{State: machine.Running} }

func (b askingBackend) Exec(_ context.Context, _ control.ExecRequest, streams control.Streams) (control.Exit, error) {
	if _, err := streams.Stdout.Write([]byte("\x1b[2Jpicture\n")); err != nil {
		return control.Exit{}, err
	}
	<-b.ended
	return control.Exit{}, nil
}

func (b askingBackend) Pending(ctx context.Context, seen *uint64) (control.Pending, error) {
	if seen == nil {
		return control.Pending{}, nil
	}
	if *seen == 0 {
		<-b.asked
		return control.Pending{Seen: 1, Questions: []control.Question{{ID: 1, Name: "api.example.com", Port: 443}}}, nil
	}
	<-ctx.Done()
	return control.Pending{}, ctx.Err()
}

func (askingBackend) Denials(time.Time) []audit.Entry {
	return []audit.Entry{
		deny(audit.Connect, "other.example.com", 443, netfilter.ReasonNoRule), // of a program that did well without
		deny(audit.Connect, "api.example.com", 443, netfilter.ReasonNoAnswer),
	}
}

// TestAttachTellsOfQuestions: while the terminal is a program's, beside its picture; and in words when it is the
// user's again.
func TestAttachTellsOfQuestions(t *testing.T) {
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	defer tty.Close()
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	st, err := store.Open(func(key string) string { return map[string]string{"SBX_HOME": dir}[key] })
	if err != nil {
		t.Fatal(err)
	}
	backend := askingBackend{asked: make(chan struct{}), ended: make(chan struct{})}
	socket := filepath.Join(dir, "control")
	s, err := server.Listen(socket, backend, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	box := &sandbox{name: "shop", store: st, files: st.Sandbox("shop")}
	if box.client, err = control.Dial(t.Context(), socket); err != nil {
		t.Fatal(err)
	}
	defer box.close()
	a := &app{Streams: Streams{In: tty, Out: tty, Err: tty}}
	done := make(chan error, 1)
	go func() { done <- a.attach(t.Context(), box, control.ExecRequest{}, attachment{stdin: true}) }()
	const title = "sbx: api.example.com:443? sbx policy pending"
	if got, want := readUntil(t, person, "\n"), "\x1b[2Jpicture\n"; got != want {
		t.Errorf("the terminal got %q, want %q", got, want)
	}
	close(backend.asked)
	if got, want := readUntil(t, person, "\a\a"), "\x1b]2;"+title+"\a\x1b]9;"+title+"\a\a"; got != want {
		t.Errorf("the terminal got\n%q, want\n%q", got, want)
	}
	close(backend.ended)
	want := "\x1b]2;\asbx: blocked: api.example.com:443 (nobody answered in time)\r\n     allow it with: sbx policy allow api.example.com\r\n"
	if got := readUntil(t, person, "allow api.example.com\r\n"); got != want {
		t.Errorf("at the end the terminal got\n%q, want\n%q", got, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v, %v", after, err)
	}
}
