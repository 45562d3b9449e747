package virtiofs

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// lines is a log that is written to from many goroutines.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

func newLogged(t *testing.T) (*world, *lines) {
	t.Helper()
	l := &lines{}
	w := newWorldServed(t, func(*Config) {}, func(ctx context.Context, conn *net.UnixConn, cfg Config) error {
		return Serve(ctx, conn, cfg, slog.New(slog.NewTextHandler(l, nil)))
	})
	return w, l
}

// Every refusal is a line that the summary at a session's end counts: it says so, and names the path.
func TestEveryRefusalIsALine(t *testing.T) {
	w, log := newLogged(t)
	w.write(t, filepath.Join(w.dir, ".git/config"), "")
	w.write(t, filepath.Join(w.dir, ".env"), secretEnv)
	w.guestMkdir("tree")
	git := w.dirNode(".git")
	for what, refused := range map[string]func() error{
		"protected": func() error { _, _, err := w.create(w.work, ".envrc", unix.O_RDWR, 0o644); return err },
		"masked":    func() error { _, err := w.fuse(10, w.work, name(".env")); return err },
		"config":    func() error { return w.commitConfig(git, "[core]\n\tpager = x\n") },
		"on the way": func() error {
			_, err := w.fuse(6, w.work, name(".git", "evil"))
			return err
		},
		"pointer": func() error {
			_, h, err := w.create(w.dirNode("tree"), ".git", unix.O_RDWR, 0o644)
			w.check(err)
			return w.writeAt(h, "gitdir: evil\n", 0)
		},
	} {
		log.take()
		w.want(what, refused(), unix.EPERM)
		if got := log.take(); !strings.Contains(got, "refused") || !strings.Contains(got, " path=") || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: the log has %q", what, got)
		}
	}
}
