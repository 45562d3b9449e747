package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/secret"
	"github.com/sbx-vm/sbx/netfilter"
)

// askedFor runs askKey on a terminal where typed is waiting, and says whether the key was stored.
func askedFor(t *testing.T, home, typed string, env ...string) bool {
	t.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	defer tty.Close()
	a := &app{Streams: Streams{In: tty, Out: io.Discard, Err: io.Discard, Env: append(env, "SBX_HOME="+home)}}
	if _, err := keyboard.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	agent, err := configs.FindAgent("claude")
	if err != nil {
		t.Fatal(err)
	}
	st, err := a.openStore()
	if err != nil {
		t.Fatal(err)
	}
	p := &plan{store: st, wanted: machine.Spec{}}
	for _, s := range agent.Secrets {
		p.wanted.Network.Secrets = append(p.wanted.Network.Secrets, netfilter.Secret{Name: s.Name, Hosts: s.Hosts})
	}
	if err := a.askKey(context.Background(), p, agent); err != nil && !strings.Contains(err.Error(), "control characters") {
		t.Fatal(err)
	}
	value, _, err := secret.Open(st.DataDir(), false).Get(t.Context(), "ANTHROPIC_API_KEY")
	if err != nil && !errors.Is(err, secret.ErrNone) {
		t.Fatal(err)
	}
	return value == "sk-typed"
}

func TestAskKey(t *testing.T) {
	home := t.TempDir()
	if askedFor(t, home, "sk-typed\n", "CLAUDE_CODE_OAUTH_TOKEN=x") {
		t.Error("asked although there is another key")
	}
	if !askedFor(t, home, "sk-typed\n") {
		t.Error("the key was not stored")
	}
	// What was no answer is asked for again.
	broken := t.TempDir()
	if askedFor(t, broken, "\x01\n") || !askedFor(t, broken, "sk-typed\n") {
		t.Error("not asked again after a value that cannot be kept")
	}
	skipped := t.TempDir()
	if askedFor(t, skipped, "\n") || askedFor(t, skipped, "sk-typed\n") {
		t.Error("asked again after Enter")
	}
}
