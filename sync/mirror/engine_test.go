//go:build unix

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// pair is two folders, brought together by an engine without anything between them.
type pair struct {
	host, guest, state string
	opts               disk.Options
	e                  *engine
	clock              time.Time
	confirmed          bool
	writes             int // so that no content is written twice
}

type localMark struct{ *disk.Root }

func (l localMark) Mark(context.Context) (string, error)         { return l.Root.Mark(), nil }
func (l localMark) SetMark(_ context.Context, mark string) error { return l.Root.SetMark(mark) }

// volatile is a copy whose disk needs no flushing: for tests that run ten thousand times.
type volatile struct{ local }

func (volatile) Flush(context.Context) error { return nil }

type failer interface {
	Fatalf(string, ...any)
	Fatal(...any)
	Helper()
}

func newPair(t failer, dir string) *pair {
	p := &pair{host: filepath.Join(dir, "host"), guest: filepath.Join(dir, "guest"), state: filepath.Join(dir, "state"), clock: time.Unix(1e9, 0)}
	for _, d := range []string{p.host, p.guest} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.start(t)
	return p
}

// start begins a session, as after a restart.
func (p *pair) start(t failer) {
	t.Helper()
	h, err := disk.Open(p.host, p.opts)
	if err != nil {
		t.Fatal(err)
	}
	g, err := disk.Open(p.guest, disk.Options{Ignore: p.opts.Ignore})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := newPolicy(nil, nil, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	each := &atomic.Bool{}
	p.e = &engine{
		root: h, each: each, host: volatile{local{h, each, nil}}, guest: volatile{local{g, each, nil}}, policy: policy,
		log: slog.New(slog.DiscardHandler), now: func() time.Time { return p.clock }, fail: p.opts.Fail,
		h: tree.Tree{}, g: tree.Tree{}, memory: &memory{path: p.state, host: h.Identity(), guest: localMark{g}},
	}
	if err := p.e.begin(context.Background()); err != nil && p.opts.Fail == nil {
		t.Fatalf("begin: %v", err)
	}
}

func (p *pair) stop() {
	p.e.root.Close()
	p.e.guest.(volatile).Close()
}

// sync looks at everything and settles.
func (p *pair) sync() (outcome, error) {
	ctx := context.Background()
	if err := p.e.look(ctx, []string{""}, []string{""}); err != nil {
		return outcome{}, err
	}
	out, err := p.e.settle(ctx, true, p.confirmed)
	if err != nil {
		return out, err
	}
	return out, p.e.save(ctx)
}

func (p *pair) must(t failer) outcome {
	t.Helper()
	out, err := p.sync()
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return out
}

func write(t failer, dir, name, content string) {
	t.Helper()
	full := filepath.Join(dir, name)
	os.MkdirAll(filepath.Dir(full), 0o755)
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contents are all files and links below a folder, the mirror's own left out.
func contents(dir string) map[string]string {
	out := map[string]string{}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, fault error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case fault != nil || rel == ".":
		case rel == disk.StageDir:
			return filepath.SkipDir
		case d.IsDir():
			out[rel] = "/"
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			out[rel] = "-> " + to
		case d.Type().IsRegular():
			data, _ := os.ReadFile(p)
			out[rel] = string(data)
		}
		return nil //nolint:nilerr // what is gone meanwhile is not there
	})
	return out
}

func (p *pair) same(t failer) {
	t.Helper()
	if h, g := contents(p.host), contents(p.guest); !maps.Equal(h, g) {
		t.Fatalf("host %q\nguest %q", h, g)
	}
}

func TestFirstCopyAndChanges(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	write(t, p.host, "a/b", "1")
	write(t, p.guest, "c/d", "2")
	write(t, p.host, "\xff\xfe", "W06")
	os.Symlink("a/b", filepath.Join(p.host, "l"))
	os.Mkdir(filepath.Join(p.guest, "empty"), 0o755)
	p.must(t)
	p.same(t)
	os.Chmod(filepath.Join(p.guest, "a/b"), 0o755) // W46
	os.RemoveAll(filepath.Join(p.host, "c"))
	write(t, p.guest, "empty/x", "3")
	p.must(t)
	p.same(t)
	if info, err := os.Stat(filepath.Join(p.host, "a/b")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the executable bit does not arrive: %v %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(p.host, "c")); err == nil {
		t.Error("c is back")
	}
}

func TestW10_W21_W35_WhatTheGuestMayNot(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	write(t, p.host, "f", "1")
	p.must(t)
	write(t, p.guest, ".git/hooks/post-checkout", "evil")
	write(t, p.guest, ".VSCODE/tasks.json", "evil")
	write(t, p.guest, ".git/config", "[core]\nfsmonitor = evil\n")
	write(t, p.guest, "sub/.git/config", "[core]\n\tbare = false\n")
	write(t, p.guest, ".SBX-sync/x", "evil")
	write(t, p.guest, "gitfile/.git", "gitdir: /evil")
	os.Symlink("/etc/passwd", filepath.Join(p.guest, "abs"))
	os.Symlink("../../.ssh", filepath.Join(p.guest, "up"))
	os.Symlink("evil", filepath.Join(p.guest, ".claude"))
	unix.Mkfifo(filepath.Join(p.guest, "fifo"), 0o644)
	out := p.must(t)
	held := map[string]bool{}
	for _, h := range out.plan.Held {
		held[h.Path] = true
	}
	host := contents(p.host)
	for _, name := range []string{".git/hooks", ".VSCODE", ".git/config", "abs", "up", ".claude", "fifo", "gitfile/.git"} {
		if _, err := os.Lstat(filepath.Join(p.host, name)); err == nil || !held[name] {
			t.Errorf("%s: on the host: %v, held: %v", name, err == nil, held[name])
		}
	}
	if host["sub/.git/config"] == "" {
		t.Error("a harmless configuration does not arrive")
	}
	if again := p.must(t); len(again.plan.Actions) > 0 {
		t.Errorf("it is tried again: %v", again.plan.Actions)
	}
}

func TestW22_ComposedEscape(t *testing.T) {
	for _, order := range [][]string{{"1", "2"}, {"2", "1"}, {"12"}} {
		p := newPair(t, t.TempDir())
		write(t, p.host, "d1/d2/x", "1")
		p.must(t)
		for _, links := range order {
			if strings.Contains(links, "1") {
				os.Symlink("..", filepath.Join(p.guest, "d1/d2/l1"))
			}
			if strings.Contains(links, "2") {
				os.Symlink("d1/d2/l1/../..", filepath.Join(p.guest, "l2"))
			}
			p.must(t)
		}
		if _, err := os.Stat(filepath.Join(p.host, "l2")); err == nil {
			t.Errorf("%q: l2 leads out of the workspace", order)
		}
		if out := p.must(t); len(out.plan.Held) == 0 {
			t.Errorf("%q: nothing is reported", order)
		}
		p.stop()
	}
}

func TestW24_W25_Links(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "shared")
	os.Mkdir(outside, 0o755)
	p := newPair(t, dir)
	defer p.stop()
	os.Symlink(outside, filepath.Join(p.host, "node_modules"))
	write(t, p.host, "f", "mine")
	p.must(t)
	os.Remove(filepath.Join(p.guest, "node_modules"))
	write(t, p.guest, "node_modules/x", "1")
	os.Remove(filepath.Join(p.guest, "f"))
	os.Symlink("g", filepath.Join(p.guest, "f"))
	p.must(t)
	p.same(t)
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

func TestW70_W73_W77_Halts(t *testing.T) {
	fill := func(t *testing.T) *pair {
		p := newPair(t, t.TempDir())
		for i := range 50 {
			write(t, p.host, fmt.Sprintf("d/%d", i), "1")
		}
		write(t, p.host, ".git/HEAD", "ref")
		p.must(t)
		return p
	}
	clear := func(dir string) {
		os.RemoveAll(filepath.Join(dir, "d"))
		os.RemoveAll(filepath.Join(dir, ".git"))
	}
	t.Run("W70_EmptiedByTheGuest", func(t *testing.T) {
		p := fill(t)
		defer p.stop()
		before := contents(p.host)
		clear(p.guest)
		if out := p.must(t); len(out.plan.Halts) == 0 || !maps.Equal(before, contents(p.host)) {
			t.Errorf("halts %v", out.plan.Halts)
		}
		p.confirmed = true
		p.must(t)
		if len(contents(p.host)) != 0 {
			t.Error("confirmed, and still there")
		}
	})
	t.Run("W77_GitDeleted", func(t *testing.T) {
		p := fill(t)
		defer p.stop()
		os.RemoveAll(filepath.Join(p.guest, ".git"))
		if out := p.must(t); len(out.plan.Halts) == 0 || contents(p.host)[".git/HEAD"] != "ref" {
			t.Errorf("halts %v", out.plan.Halts)
		}
	})
	t.Run("W31_W73_RootMovedAway", func(t *testing.T) {
		p := fill(t)
		defer p.stop()
		os.Rename(p.host, p.host+"2")
		os.Symlink("/tmp", p.host)
		if _, err := p.sync(); !errors.Is(err, disk.ErrRoot) {
			t.Errorf("error %v", err)
		}
		if len(contents(p.guest)) < 50 {
			t.Error("the guest's copy went with it")
		}
	})
	t.Run("W72_W78_StateOrCopyLost", func(t *testing.T) {
		for name, harm := range map[string]func(*pair){
			"guest's disk is new": func(p *pair) { os.RemoveAll(p.guest); os.Mkdir(p.guest, 0o755) },
			"state is gone":       func(p *pair) { os.Remove(p.state) },
			"state is cut":        func(p *pair) { os.Truncate(p.state, 100) },
			"state of another":    func(p *pair) { os.WriteFile(p.state, tree.State{Pair: "x", Generation: 1}.Encode(), 0o600) },
		} {
			p := fill(t)
			p.stop()
			harm(p)
			os.Remove(filepath.Join(p.guest, "d/1"))
			write(t, p.host, "d/2", "mine")
			p.start(t)
			p.must(t)
			if h := contents(p.host); len(h) < 53 || h["d/2"] != "mine" || h["d/1"] != "1" {
				t.Errorf("%s: %q", name, h)
			}
			p.same(t)
			p.stop()
		}
	})
	t.Run("W78_RolledBack", func(t *testing.T) {
		p := fill(t)
		old, _ := os.ReadFile(p.state)
		for _, content := range []string{"2", "3"} { // the host deletes what the old state has
			write(t, p.host, "x", content)
			os.Remove(filepath.Join(p.guest, "d/"+content))
			p.must(t)
		}
		p.stop()
		write(t, p.host, "d/2", "1") // as it was in the old state
		os.WriteFile(p.state, old, 0o600)
		p.start(t)
		defer p.stop()
		p.must(t)
		if contents(p.host)["d/2"] != "1" {
			t.Error("an old state deleted a new file")
		}
	})
}

func TestDeletionsWaitUntilItIsQuiet(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	for i := range 10 {
		write(t, p.host, fmt.Sprint("f", i), "1")
	}
	p.must(t)
	ctx := context.Background()
	for i := range 3 {
		os.Remove(filepath.Join(p.guest, fmt.Sprint("f", i)))
		write(t, p.guest, fmt.Sprint("new", i), "1")
		p.clock = p.clock.Add(deleteQuiet / 2)
		p.e.look(ctx, nil, []string{""})
		out, err := p.e.settle(ctx, false, false)
		if err != nil || out.again != deleteQuiet {
			t.Fatalf("again in %v, %v", out.again, err)
		}
		if h := contents(p.host); len(h) != 11+i {
			t.Fatalf("%q", h)
		}
	}
	p.clock = p.clock.Add(deleteQuiet)
	if out, err := p.e.settle(ctx, false, false); err != nil || out.again != 0 {
		t.Fatalf("again in %v, %v", out.again, err)
	}
	p.same(t)
}

// history changes both sides at random and keeps in mind what the host's user wrote.
func history(t *rapid.T, p *pair, wrote map[string]bool, n int) {
	names := []string{"a", "b", "d/a", "d/b", "d/e/a", "a/x"}
	for range n {
		p.writes++
		dir := rapid.SampledFrom([]string{p.host, p.guest}).Draw(t, "side")
		full := filepath.Join(dir, rapid.SampledFrom(names).Draw(t, "path"))
		if rapid.IntRange(0, 3).Draw(t, "op") == 0 {
			forget(dir, full, p, wrote)
			os.RemoveAll(full)
			continue
		}
		content := fmt.Sprintf("%s %d", filepath.Base(dir), p.writes)
		if st, err := os.Lstat(full); err == nil && !st.IsDir() {
			forget(dir, full, p, wrote)
		}
		if os.MkdirAll(filepath.Dir(full), 0o755) == nil && os.WriteFile(full, []byte(content), 0o644) == nil && dir == p.host {
			wrote[content] = true
		}
	}
}

// forget drops what the user itself overwrites or deletes, and what the guest does to
// content that it had.
func forget(dir, full string, p *pair, wrote map[string]bool) {
	filepath.WalkDir(full, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(name)
			delete(wrote, string(data))
		}
		return nil
	})
}

func TestW74_Histories(t *testing.T) {
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		p := newPair(t, dir)
		defer os.RemoveAll(dir)
		defer p.stop()
		p.confirmed = true
		p.e.maxDeletes = -1
		wrote := map[string]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			history(t, p, wrote, rapid.IntRange(1, 5).Draw(t, "changes"))
			p.must(t)
			p.same(t)
			there := map[string]bool{}
			for _, c := range contents(p.host) {
				there[c] = true
			}
			for c := range wrote {
				if !there[c] {
					t.Fatalf("lost %q: host %q", c, contents(p.host))
				}
			}
		}
	})
}

var errDied = errors.New("died here")

// TestW79 ends the session at every step, and begins another.
func TestW79_DeathAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		dir := t.TempDir()
		p := newPair(t, dir)
		for _, f := range []string{"edit", "del", "both", "dir/x", "kind"} {
			write(t, p.host, f, "old "+f)
		}
		p.must(t)
		write(t, p.guest, "edit", "new edit")
		write(t, p.guest, "new/n", "new")
		os.Remove(filepath.Join(p.guest, "del"))
		write(t, p.host, "both", "the host's")
		write(t, p.guest, "both", "the guest's")
		os.Remove(filepath.Join(p.guest, "kind"))
		write(t, p.guest, "kind/k", "folder now")
		p.stop()
		var left atomic.Int64
		left.Store(int64(step))
		p.opts.Fail = func(string) error {
			if left.Add(-1) <= 0 {
				return errDied
			}
			return nil
		}
		p.start(t)
		p.sync()
		p.stop()
		p.opts.Fail = nil
		p.start(t)
		p.must(t)
		p.same(t)
		h := contents(p.host)
		kept := false
		for name, c := range h {
			kept = kept || strings.Contains(name, tree.ConflictMark) && c == "the guest's"
			if strings.HasPrefix(name, "sbx-recovered") {
				t.Errorf("step %d: %s = %q", step, name, c)
			}
		}
		if h["edit"] != "new edit" || h["new/n"] != "new" || h["del"] != "" || h["both"] != "the host's" || h["kind/k"] != "folder now" || !kept {
			t.Errorf("step %d: %q", step, h)
		}
		if names, _ := os.ReadDir(filepath.Join(p.host, disk.StageDir)); len(names) > 1 {
			t.Errorf("step %d: left in the staging folder: %v", step, names)
		}
		p.stop()
		if left.Load() > 0 {
			if step < 15 {
				t.Errorf("only %d steps", step)
			}
			return
		}
	}
}

func TestEditBetweenScanAndApplyIsKept(t *testing.T) {
	for _, at := range []string{"put", "ready", "remove", "exchanged", "removed"} {
		t.Run(at, func(t *testing.T) {
			p := newPair(t, t.TempDir())
			write(t, p.host, "f", "old")
			write(t, p.host, "g", "old")
			write(t, p.host, "h", "h")
			p.must(t)
			p.stop()
			var edited atomic.Bool
			p.opts.Fail = func(step string) error {
				if step != at || !edited.CompareAndSwap(false, true) {
					return nil
				}
				target := filepath.Join(p.host, map[string]string{"put": "f", "ready": "f", "exchanged": "f"}[at])
				if target == p.host {
					target = filepath.Join(p.host, "g")
				}
				if at == "exchanged" || at == "removed" { // a program that still has the old file open
					left, _ := filepath.Glob(filepath.Join(p.host, disk.StageDir, "s-*"))
					for _, name := range left {
						target = name
					}
				}
				return os.WriteFile(target, []byte("an edit just now"), 0o644)
			}
			p.start(t)
			write(t, p.guest, "f", "the guest's")
			os.Remove(filepath.Join(p.guest, "g"))
			p.must(t)
			p.must(t)
			if !edited.Load() {
				t.Fatal("the edit was never made")
			}
			found := false
			for _, c := range contents(p.host) {
				found = found || c == "an edit just now"
			}
			if !found {
				t.Errorf("lost: %q", contents(p.host))
			}
			p.same(t)
			p.stop()
		})
	}
}

func TestDeltasOfLargeFiles(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i / 1000)
	}
	write(t, p.host, "big", string(big))
	p.must(t)
	p.same(t)
	copy(big[3<<20:], "changed in the middle")
	big = append(big, "and at the end"...)
	write(t, p.guest, "big", string(big))
	p.must(t)
	p.same(t)
	write(t, p.host, "big", string(big[:2<<20]))
	p.must(t)
	p.same(t)
}

func TestW50_LargerThanTheLimit(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	write(t, p.guest, "sparse", "")
	if err := os.Truncate(filepath.Join(p.guest, "sparse"), 8<<40); err != nil {
		t.Skip("the file system has no such large files")
	}
	out := p.must(t)
	if len(out.plan.Held) != 1 || len(contents(p.host)) != 0 {
		t.Errorf("held %v", out.plan.Held)
	}
	p.e.reserve = 1 << 60
	write(t, p.guest, "small", "1")
	if p.must(t); len(contents(p.host)) != 0 { // W51
		t.Error("written to a full disk")
	}
}
