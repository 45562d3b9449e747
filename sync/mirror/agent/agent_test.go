//go:build unix

package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pairOf is a client and a real server over a pipe.
func pairOf(t *testing.T, dir string) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), theirs, theirs) }()
	c, err := Start(context.Background(), ours, Hello{Dir: dir, Ignore: []string{"*.log"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		theirs.Close()
		<-served
	})
	return c
}

func TestCalls(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new/w")
	c := pairOf(t, dir)
	ctx := context.Background()
	for i := range 600 { // more than one line
		name := filepath.Join(dir, strings.Repeat("x", 200)+string(rune('a'+i/100))+string(rune('a'+i%100)))
		if err := os.WriteFile(name, []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "\xff"), []byte("2"), 0o755)
	os.WriteFile(filepath.Join(dir, "a.log"), nil, 0o644)
	os.Symlink("to\nwhere", filepath.Join(dir, "l"))
	got, err := c.Scan(ctx, []string{""})
	if err != nil || len(got) != 602 || !got["\xff"].Exec || got["l"].Target != "to\nwhere" {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	<-c.Changed
	if err := c.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	name, err := c.Clone(ctx, "\xff")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Staged(ctx, name); err != nil || !tree.Same(tree.Entry{Kind: tree.File, Size: 1, Hash: got["\xff"].Hash}, e) {
		t.Errorf("%v %v", e, err)
	}
	steps := []disk.Step{
		{Action: tree.Action{Op: tree.Make, Path: "d"}},
		{Action: tree.Action{Op: tree.Put, Path: "d/f", Want: got["\xff"]}, Staged: name},
		{Action: tree.Action{Op: tree.Remove, Path: "l", Have: tree.Entry{Kind: tree.Link, Target: "another"}}},
	}
	faults, err := c.Apply(ctx, steps)
	if err != nil || faults[0] != nil || faults[1] != nil || !errors.Is(faults[2], disk.ErrChanged) {
		t.Errorf("%v %v", faults, err)
	}
	if err := errors.Join(c.SetMark(ctx, "m"), c.Flush(ctx), c.Drop(ctx, "../../etc/passwd")); err != nil {
		t.Error(err)
	}
	if mark, err := c.Mark(ctx); mark != "m" || err != nil {
		t.Errorf("%q %v", mark, err)
	}
	if sums, err := c.Sums(ctx, "d/f", 1); len(sums) != 1 || err != nil {
		t.Errorf("%v %v", sums, err)
	}
	if _, err := c.Scan(ctx, []string{"../.."}); err != nil {
		t.Errorf("a path that is none is nothing: %v", err)
	}
}

// stream is what a hostile guest sends, whatever it is asked.
type stream struct {
	io.Reader
	closed chan struct{}
}

func (s stream) Write(p []byte) (int, error) { return len(p), nil }

func (s stream) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// FuzzClient has a guest answer anything: what the client believes of it are names.
func FuzzClient(f *testing.F) {
	f.Add([]byte("{\"text\":\"ready\"}\n{\"id\":1,\"entries\":[{\"p\":\"YQ==\",\"k\":1}],\"more\":true}\n" +
		"{\"id\":1,\"entries\":[{\"p\":\"YS9i\",\"k\":3,\"t\":\"eA==\"}]}\n"))
	f.Add([]byte("{}\n{\"dirty\":[\"Li4=\"]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Start(context.Background(), stream{bytes.NewReader(data), make(chan struct{})}, Hello{MaxTree: 100})
		if err != nil {
			return
		}
		defer c.Close()
		got, err := c.Scan(context.Background(), []string{""})
		if err != nil {
			return
		}
		for p := range got {
			if !tree.ValidPath(p) || disk.Reserved(p) || len(got) > 100 {
				t.Errorf("believes %q", p)
			}
		}
		for _, p := range c.Dirty() {
			if p != "" && !tree.ValidPath(p) {
				t.Errorf("believes that %q changed", p)
			}
		}
	})
}
