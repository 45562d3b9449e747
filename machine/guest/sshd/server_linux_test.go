package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server that runs commands as the tester, and a client's keys.
type world struct {
	server *Server
	signer ssh.Signer
	ended  atomic.Int32
	clock  atomic.Int64
}

func newKey(t *testing.T) (string, ssh.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), signer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	host, _ := newKey(t)
	_, client := newKey(t)
	w := &world{signer: client}
	w.server = &Server{
		Config:   boot.Config{HostKey: host, AuthorizedKey: string(ssh.MarshalAuthorizedKey(client.PublicKey()))},
		Starter:  Starter{User: boot.User{Name: "agent"}, Workdir: t.TempDir(), Env: map[string]string{"FROM": "sandbox"}, Plain: true},
		Shutdown: func() { w.ended.Add(1) },
		SetTime:  func(at time.Time) error { w.clock.Store(at.UnixNano()); return nil },
		Log:      slog.New(slog.DiscardHandler),
	}
	return w
}

// connect gives a client; the server ends with it or with the test.
func (w *world) connect(t *testing.T, auth ssh.Signer) (*ssh.Client, error) {
	t.Helper()
	ours, theirs := pair(t)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		w.server.Serve(ctx, theirs)
	}()
	t.Cleanup(func() {
		cancel()
		ours.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the server still holds an ended connection")
		}
	})
	peer, channels, requests, err := ssh.NewClientConn(ours, "guest", &ssh.ClientConfig{
		User: "sbx", Auth: []ssh.AuthMethod{ssh.PublicKeys(auth)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, err
	}
	client := ssh.NewClient(peer, channels, requests)
	t.Cleanup(func() { client.Close() })
	return client, nil
}

func (w *world) client(t *testing.T) *ssh.Client {
	t.Helper()
	client, err := w.connect(t, w.signer)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// pair is a connected pair of sockets: both sides of SSH speak first, which a
// net.Pipe without buffer does not survive.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestOnlyTheSandboxsKey(t *testing.T) {
	w := newWorld(t)
	_, stranger := newKey(t)
	if _, err := w.connect(t, stranger); err == nil {
		t.Error("a stranger's key was accepted")
	}
	w.client(t)
}

func TestNothingElse(t *testing.T) {
	client := newWorld(t).client(t)
	for _, kind := range []string{"direct-tcpip", "x11", "forwarded-tcpip", "auth-agent@openssh.com", ""} {
		if _, _, err := client.OpenChannel(kind, nil); err == nil {
			t.Errorf("a channel %q was opened", kind)
		}
	}
	for _, path := range []string{"/run/docker.sock", "/var/run/docker.sock/", "", "/etc/passwd", "/var/run/../run/docker.sock"} {
		payload := ssh.Marshal(struct {
			Path, Reserved string
			Port           uint32
		}{path, "", 0})
		if _, _, err := client.OpenChannel("direct-streamlocal@openssh.com", payload); err == nil {
			t.Errorf("a channel to %q was opened", path)
		}
	}
	for _, request := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "no-more-sessions@openssh.com", ""} {
		if ok, _, err := client.SendRequest(request, true, nil); ok || err != nil {
			t.Errorf("request %q: %v %v", request, ok, err)
		}
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.RequestSubsystem("netconf"); err == nil {
		t.Error("a subsystem other than sftp began")
	}
}

func TestGlobalRequests(t *testing.T) {
	w := newWorld(t)
	client := w.client(t)
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, r := range []struct {
		name    string
		payload []byte
		want    bool
	}{
		{"keepalive@openssh.com", nil, true},
		{RequestSyncTime, []byte{1, 2, 3}, false},
		{RequestSyncTime, binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())), true},
		{RequestShutdown, nil, true},
	} {
		if ok, _, err := client.SendRequest(r.name, true, r.payload); ok != r.want || err != nil {
			t.Errorf("%s %x: %v %v", r.name, r.payload, ok, err)
		}
	}
	if got := w.clock.Load(); got != at.UnixNano() {
		t.Errorf("the clock was set to %d", got)
	}
	// The answer comes before the end begins.
	within(t, "the shutdown began", func() bool { return w.ended.Load() == 1 })
}

// A connection that ends with channels open lets the next one in.
func TestConnectionEnds(t *testing.T) {
	w := newWorld(t)
	ours, theirs := pair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.server.Serve(t.Context(), theirs)
	}()
	peer, channels, requests, err := ssh.NewClientConn(ours, "guest", &ssh.ClientConfig{
		User: "sbx", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(peer, channels, requests)
	session, out := startCommand(t, client, Command{Argv: []string{"sh", "-c", "trap '' HUP; echo $$; while :; do sleep 0.1; done"}})
	defer session.Close()
	pid := readPid(t, out)
	ours.Close()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("the server waits for a connection that has ended")
	}
	within(t, "the command that ignores SIGHUP is gone", func() bool { return !alive(pid) })
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("not within ten seconds: %s", what)
}

// FuzzSessionRequests throws requests at a session whose commands cannot start.
func FuzzSessionRequests(f *testing.F) {
	for _, kind := range []string{"env", "pty-req", "window-change", "signal", "exec", "subsystem", "shell", "x"} {
		f.Add(kind, []byte{0, 0, 0, 1, 'a', 0, 0, 0, 1, 'b'})
		f.Add(kind, ssh.Marshal(struct{ V string }{"\x00{}"}))
	}
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		s := newSession(&Server{Log: slog.New(slog.DiscardHandler)}, nil)
		switch kind {
		case "exec", "subsystem":
			var text struct{ Value string }
			if ssh.Unmarshal(payload, &text) == nil {
				decode(text.Value) //nolint:errcheck // it must not panic
			}
		case "shell":
		default:
			s.request(&ssh.Request{Type: kind, Payload: payload})
		}
		for k, v := range s.env {
			if bytes.ContainsAny([]byte(k), "=\x00") || bytes.Contains([]byte(v), []byte{0}) {
				t.Errorf("environment takes %q=%q", k, v)
			}
		}
	})
}
