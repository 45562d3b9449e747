//go:build unix

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/sbx-vm/sbx/sync/mirror/agent"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inProcess is a guest without a machine: the real agent and SFTP server over pipes. They have ended, and touch the folder no
// more, when the test's own folder is removed.
func inProcess(t testing.TB, dir string) Remote {
	serving := &sync.WaitGroup{}
	t.Cleanup(serving.Wait)
	return Remote{
		Dir: dir,
		Agent: pipedUntil(serving, func(c net.Conn) {
			agent.Serve(context.Background(), c, c)
		}),
		SFTP: pipedUntil(serving, func(c net.Conn) {
			if s, err := sftp.NewServer(c); err == nil {
				s.Serve()
			}
		}),
	}
}

// piped serves what is dialled over a pipe.
func piped(serve func(net.Conn)) func(context.Context) (io.ReadWriteCloser, error) {
	return pipedUntil(&sync.WaitGroup{}, serve)
}

// pipedUntil is piped for who waits until nothing is served any more.
func pipedUntil(serving *sync.WaitGroup, serve func(net.Conn)) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		ours, theirs := net.Pipe()
		serving.Go(func() {
			defer theirs.Close()
			serve(theirs)
		})
		return ours, nil
	}
}

type rig struct {
	host, guest string
	cfg         Config
	*Session
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{host: filepath.Join(dir, "host"), guest: filepath.Join(dir, "guest")}
	os.Mkdir(r.host, 0o755)
	os.Mkdir(r.guest, 0o755)
	r.cfg = Config{Root: r.host, State: filepath.Join(dir, "state"), Remote: inProcess(t, r.guest), Reserve: 1}
	if change != nil {
		change(&r.cfg)
	}
	return r
}

func (r *rig) start(t testing.TB) {
	t.Helper()
	var err error
	if r.Session, err = Start(context.Background(), r.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
}

// until polls for what the session does by itself.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *rig) flush(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Flush(ctx); err != nil {
		t.Fatalf("flush: %v (%+v)", err, r.Status())
	}
}

func TestSession(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Ignore = []string{"node_modules/", "*.log", "!keep.log"} })
	write(t, r.host, "src/main.go", "package main")
	write(t, r.host, "node_modules/x/y", "ignored")
	write(t, r.guest, "build.log", "ignored")
	write(t, r.guest, "keep.log", "kept")
	write(t, r.host, "big", strings.Repeat("0123456789abcdef", 200_000))
	r.start(t)
	r.flush(t)
	if h, g := contents(r.host), contents(r.guest); g["src/main.go"] != "package main" || h["keep.log"] != "kept" || g["big"] != h["big"] ||
		g["node_modules"] != "" || h["build.log"] != "" {
		t.Fatalf("host %d, guest %d entries", len(h), len(g))
	}
	write(t, r.host, "a/b/c", "from the host")
	write(t, r.guest, "d/e/f", "from the guest")
	until(t, "both arrive", func() bool {
		return contents(r.guest)["a/b/c"] == "from the host" && contents(r.host)["d/e/f"] == "from the guest"
	})
	os.RemoveAll(filepath.Join(r.guest, "a"))
	until(t, "the deletion arrives", func() bool { return contents(r.host)["a/b/c"] == "" })
	write(t, r.host, "big", strings.Repeat("0123456789abcdef", 200_000)+"more")
	r.flush(t)
	if contents(r.host)["big"] != contents(r.guest)["big"] {
		t.Error("a changed large file does not arrive")
	}
	if st := r.Status(); st.State != Watching || st.Synced.IsZero() || len(st.Held) > 0 {
		t.Errorf("%+v", st)
	}
}

func TestSessionSurvivesItsConnection(t *testing.T) {
	var mu sync.Mutex
	var streams []io.Closer
	r := newRig(t, func(c *Config) {
		open := c.Remote.Agent
		c.Remote.Agent = func(ctx context.Context) (io.ReadWriteCloser, error) {
			s, err := open(ctx)
			mu.Lock()
			defer mu.Unlock()
			streams = append(streams, s)
			return s, err
		}
	})
	write(t, r.host, "f", "1")
	r.start(t)
	r.flush(t)
	mu.Lock()
	streams[0].Close()
	mu.Unlock()
	write(t, r.guest, "g", "2")
	until(t, "g arrives", func() bool { return contents(r.host)["g"] == "2" })
	os.Remove(filepath.Join(r.guest, "f"))
	until(t, "the deletion arrives: the state is believed", func() bool { return contents(r.host)["f"] == "" })
}

func TestConflictIsNamedAndBothAreKept(t *testing.T) {
	r := newRig(t, nil)
	write(t, r.host, "f", "the host's")
	write(t, r.guest, "f", "the guest's")
	r.start(t)
	r.flush(t)
	c := r.Conflicts()
	if len(c) != 1 || !strings.HasPrefix(c[0], "f"+tree.ConflictMark) {
		t.Fatalf("conflicts %q", c)
	}
	want := map[string]string{"f": "the host's", c[0]: "the guest's"}
	if h, g := contents(r.host), contents(r.guest); !maps.Equal(h, want) || !maps.Equal(g, want) {
		t.Errorf("host %q, guest %q", h, g)
	}
	os.Remove(filepath.Join(r.host, c[0]))
	r.flush(t)
	if len(r.Conflicts()) != 0 {
		t.Errorf("a resolved conflict is still listed")
	}
}

func TestHaltConfirmReset(t *testing.T) {
	r := newRig(t, nil)
	for i := range 100 {
		write(t, r.host, fmt.Sprint("d/", i), "1")
	}
	write(t, r.host, "x", "1")
	r.start(t)
	r.flush(t)
	os.RemoveAll(filepath.Join(r.guest, "d"))
	var halt HaltError
	if err := r.Flush(context.Background()); !errors.As(err, &halt) || halt.Halts[0].Reason != tree.DeletedMany {
		t.Fatalf("%v", err)
	}
	if st := r.Status(); st.State != Halted || len(contents(r.host)) != 102 {
		t.Fatalf("%+v", st)
	}
	if err := r.Reset(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.flush(t)
	if len(contents(r.guest)) != 102 {
		t.Error("a reset does not bring it back")
	}
	os.RemoveAll(filepath.Join(r.guest, "d"))
	if err := r.Confirm(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(contents(r.host)) != 1 {
		t.Error("confirmed, and still there")
	}
}

func TestW81_OneSandboxForAWorkspace(t *testing.T) {
	r := newRig(t, nil)
	os.MkdirAll(filepath.Join(r.host, "nested"), 0o755)
	link := r.host + "-link"
	os.Symlink(r.host, link)
	r.start(t)
	for _, dir := range []string{r.host, link, filepath.Join(r.host, "nested"), filepath.Dir(r.host)} {
		cfg := r.cfg
		cfg.Root = dir
		if s, err := Start(context.Background(), cfg); !errors.Is(err, disk.ErrLocked) {
			s.Close()
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestW82_EditsDuringTheFirstCopy(t *testing.T) {
	r := newRig(t, nil)
	for i := range 300 {
		write(t, r.host, fmt.Sprint("d/", i), "old")
		write(t, r.guest, fmt.Sprint("e/", i), "old")
	}
	r.start(t)
	for i := range 300 {
		write(t, r.host, fmt.Sprint("d/", i), "new")
		write(t, r.guest, fmt.Sprint("e/", i), "new")
	}
	r.flush(t)
	r.flush(t)
	h := contents(r.host)
	if !maps.Equal(h, contents(r.guest)) {
		t.Fatal("they differ")
	}
	for i := range 300 {
		if h[fmt.Sprint("d/", i)] != "new" || h[fmt.Sprint("e/", i)] != "new" {
			t.Fatalf("%d: %q %q", i, h[fmt.Sprint("d/", i)], h[fmt.Sprint("e/", i)])
		}
	}
}

func TestW60_WatchLimit(t *testing.T) {
	r := newRig(t, nil)
	// The kernel's answer at the limit, as the guest's and the host's watchers get it.
	r.cfg.fail = func(step string) error {
		if step == "watch" {
			return errWatchLimit
		}
		return nil
	}
	write(t, r.host, "f", "1")
	r.start(t)
	r.flush(t)
	write(t, r.host, "g", "2")
	until(t, "g arrives by looking", func() bool { return contents(r.guest)["g"] == "2" })
	if notes := r.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0], "max_user_watches") {
		t.Errorf("notes %q", notes)
	}
}

// errWatchLimit is inotify_add_watch(2)'s.
var errWatchLimit = error(syscall.ENOSPC)

// TestW54 and W55: sides that never stop changing are in step once they do.
func TestW54_W55_StormAndGrowingLog(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxDeletes = -1 })
	r.start(t)
	r.flush(t)
	log, err := os.Create(filepath.Join(r.guest, "grows"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		name := filepath.Join(r.guest, fmt.Sprint("d", i%7), fmt.Sprint("f", i%50))
		if i%3 == 0 {
			os.RemoveAll(filepath.Dir(name))
		} else {
			write(t, r.guest, fmt.Sprintf("d%d/f%d", i%7, i%50), fmt.Sprint(i))
		}
		fmt.Fprintln(log, i)
	}
	log.Close()
	until(t, "both are the same", func() bool { return maps.Equal(contents(r.host), contents(r.guest)) && len(contents(r.guest)) > 0 })
}

func TestW83_DependenciesReinstalled(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Ignore = []string{"node_modules/"} })
	write(t, r.host, "package.json", "{}")
	for i := range 2000 {
		write(t, r.guest, fmt.Sprintf("node_modules/p%d/x.js", i), "1")
	}
	r.start(t)
	r.flush(t)
	os.RemoveAll(filepath.Join(r.guest, "node_modules"))
	r.flush(t)
	if h := contents(r.host); len(h) != 1 || r.Status().State != Watching {
		t.Errorf("%d entries, %+v", len(h), r.Status())
	}
}

func TestW17_W19_TheHostsFileSystemIsAsked(t *testing.T) {
	if f := folding(t.TempDir()); f != nil && f("A") != f("a") && f("\u00e9") != f("e\u0301") {
		t.Error("a file system that folds nothing is said to fold")
	}
}

func TestW101_TheHostsProtectedFilesReachTheGuest(t *testing.T) {
	r := newRig(t, nil)
	write(t, r.host, ".vscode/settings.json", "1")
	r.start(t)
	r.flush(t)
	write(t, r.guest, ".vscode/settings.json", "evil")
	r.flush(t)
	if h := contents(r.host)[".vscode/settings.json"]; h != "1" || len(r.Status().Held) != 1 {
		t.Errorf("host %q, %+v", h, r.Status())
	}
	write(t, r.host, ".vscode/settings.json", "2")
	r.flush(t)
	if h, g := contents(r.host)[".vscode/settings.json"], contents(r.guest)[".vscode/settings.json"]; h != "2" || g != "2" {
		t.Errorf("host %q, guest %q", h, g)
	}
}

func TestW05_NamesInMessagesAreQuoted(t *testing.T) {
	h := HaltError{[]tree.Halt{{Side: tree.Guest, Reason: tree.ProtectedDeleted, Path: "a\x1b[31m\n\u202e"}}}
	if strings.ContainsAny(h.Error(), "\x1b\n\u202e") {
		t.Errorf("%q", h.Error())
	}
}

func TestMaskedFilesNeverReachTheGuest(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Mask = []string{"secret/*.txt"} })
	write(t, r.host, ".env", "KEY=1")
	write(t, r.host, "secret/a.txt", "1")
	write(t, r.host, "secret/b.md", "2")
	r.start(t)
	r.flush(t)
	write(t, r.guest, ".env", "KEY=the guest's")
	r.flush(t)
	if g := contents(r.guest); g["secret/a.txt"] != "" || g["secret/b.md"] != "2" || contents(r.host)[".env"] != "KEY=1" {
		t.Errorf("guest %q", g)
	}
}

// What is masked from the second session on was agreed on in the first: it must not be known for that.
func TestMaskedLater(t *testing.T) {
	r := newRig(t, nil)
	write(t, r.host, "settings.json", "harmless")
	r.start(t)
	r.flush(t)
	r.Close()
	write(t, r.host, "settings.json", "secret")
	os.Remove(filepath.Join(r.guest, "settings.json"))
	r.cfg.Mask = []string{"settings.json"}
	r.start(t)
	r.flush(t)
	if g := contents(r.guest); g["settings.json"] != "" {
		t.Errorf("the guest has %q", g["settings.json"])
	}
	write(t, r.guest, "settings.json", "the guest's")
	r.flush(t)
	if h, g := contents(r.host), contents(r.guest); h["settings.json"] != "secret" || g["settings.json"] != "the guest's" {
		t.Errorf("the host has %q, the guest %q", h["settings.json"], g["settings.json"])
	}
}
