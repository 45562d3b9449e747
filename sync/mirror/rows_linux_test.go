package mirror

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// unprivileged runs the test again as nobody, if this process is root, which may read all. It tells whether
// the caller is the one to test.
func unprivileged(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	dir, err := os.MkdirTemp("", "nobody") // t.TempDir is below a folder of root's own
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
	return false
}

// counted counts what the host says to the guest's agent.
func counted(r *Remote) *atomic.Int64 {
	n := &atomic.Int64{}
	open := r.Agent
	r.Agent = func(ctx context.Context) (io.ReadWriteCloser, error) {
		s, err := open(ctx)
		return countedStream{s, n}, err
	}
	return n
}

type countedStream struct {
	io.ReadWriteCloser
	n *atomic.Int64
}

func (c countedStream) Write(b []byte) (int, error) {
	c.n.Add(1)
	return c.ReadWriteCloser.Write(b)
}

// TestW39_FilesThatCannotBeRead: on either side, they are named and left alone, on the other side too; the rest is
// copied; and nothing is tried again and again.
func TestW39_FilesThatCannotBeRead(t *testing.T) {
	if !unprivileged(t) {
		return
	}
	r := newRig(t, nil)
	said := counted(&r.cfg.Remote)
	for _, dir := range []string{r.host, r.guest} {
		side := filepath.Base(dir)
		write(t, dir, side+"-both/f", "agreed on")
		write(t, dir, side+"-fine", "1")
	}
	r.start(t)
	r.flush(t)
	for _, dir := range []string{r.host, r.guest} {
		side := filepath.Base(dir)
		closed, err := os.OpenFile(filepath.Join(dir, side+"-closed"), os.O_CREATE|os.O_WRONLY, 0) // at no time can it be read
		if err != nil {
			t.Fatal(err)
		}
		if _, err := closed.WriteString("secret"); err != nil {
			t.Fatal(err)
		}
		closed.Close()
		write(t, dir, side+"-nox/f", "1")
		write(t, dir, side+"-later", "2")
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, side+"-nox"), 0o755) })
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, side+"-both"), 0o755) })
		for name, mode := range map[string]os.FileMode{"-nox": 0o644, "-both": 0} {
			if err := os.Chmod(filepath.Join(dir, side+name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.flush(t)
	h, g := contents(r.host), contents(r.guest)
	for _, side := range []string{"host", "guest"} {
		for name, want := range map[string]string{"-fine": "1", "-later": "2"} {
			if h[side+name] != want || g[side+name] != want {
				t.Errorf("%s: %q on the host, %q in the guest", side+name, h[side+name], g[side+name])
			}
		}
	}
	if h["guest-closed"] != "" || g["host-closed"] != "" || h["guest-both/f"] != "agreed on" || g["host-both/f"] != "agreed on" {
		t.Errorf("host %q, guest %q", h, g)
	}
	named := map[string]bool{}
	for _, held := range r.Status().Held {
		named[held.Path] = true
	}
	for _, side := range []string{"host", "guest"} {
		if !named[side+"-closed"] || !named[side+"-both"] || !named[side+"-nox"] && !named[side+"-nox/f"] {
			t.Errorf("held: %v", r.Status().Held)
		}
	}
	quiet := func() bool {
		before := said.Load()
		time.Sleep(500 * time.Millisecond)
		return said.Load() == before
	}
	until(t, "the guest is left in peace", quiet)
	write(t, r.host, "after", "3")
	until(t, "what comes afterwards is copied", func() bool { return contents(r.guest)["after"] == "3" })
}

// TestW39_GuestThatRefusesToRead: an agent tells of a file that its server then does not give.
func TestW39_GuestThatRefusesToRead(t *testing.T) {
	var opened atomic.Int64
	mine := sha256.Sum256([]byte("1"))
	tell := hostile{entries: []map[string]any{lie("mine", map[string]any{"n": 1, "h": mine[:]}), lie("closed", nil)}}
	denied := func(c net.Conn) {
		server{denied: func() { opened.Add(1) }}.serve(c)
	}
	r, st := against(t, tell, denied)
	if len(st.Failed) != 1 || !strings.Contains(st.Failed[0], "closed") {
		t.Errorf("%+v", st)
	}
	until(t, "it was tried twice", func() bool { return opened.Load() >= 2 })
	before := opened.Load()
	time.Sleep(time.Second)
	if n := opened.Load() - before; n > 6 {
		t.Errorf("tried %d more times within a second", n)
	}
	untouched(t, r)
}

// imagined is a copy that has no disk: what is asked of it is counted.
type imagined struct {
	t              tree.Tree
	looked, placed int
}

func (m *imagined) Scan(_ context.Context, paths []string, _ tree.Tree) (tree.Tree, error) {
	out := tree.Tree{}
	for _, p := range m.t.Below(paths) {
		m.looked++
		out[p] = m.t[p]
	}
	return out, nil
}

func (m *imagined) Apply(_ context.Context, steps []disk.Step) ([]error, error) {
	for _, s := range steps {
		m.placed++
		switch s.Op {
		case tree.Remove, tree.RemoveFolder:
			delete(m.t, s.Path)
		default:
			m.t[s.Path] = s.Want
		}
	}
	return make([]error, len(steps)), nil
}

func (*imagined) Open(context.Context, string) (source, error)           { return nil, os.ErrInvalid }
func (*imagined) Sums(context.Context, string, int) ([]tree.Hash, error) { return nil, os.ErrInvalid }
func (*imagined) Stage(context.Context, string) (target, error)          { return nil, os.ErrInvalid }
func (*imagined) Drop(context.Context, string)                           {}
func (*imagined) Flush(context.Context) error                            { return nil }

// work is what n entries in one folder cost: operations on either copy, and allocations, for the first copy
// and for one change after it.
func work(t *testing.T, n int) (first, one, allocs float64) {
	t.Helper()
	p := newPair(t, t.TempDir())
	defer p.e.root.Close()
	defer p.e.guest.(volatile).Close() // as they are now
	host, guest := &imagined{t: tree.Tree{}}, &imagined{t: tree.Tree{"d": {Kind: tree.Folder}}}
	for i := range n {
		guest.t[fmt.Sprint("d/", i)] = tree.Entry{Kind: tree.Link, Target: "x"}
	}
	p.e.host, p.e.guest = host, guest
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx := context.Background()
	settle := func(host, guest []string) {
		t.Helper()
		if err := p.e.look(ctx, host, guest); err != nil {
			t.Fatal(err)
		}
		if out, err := p.e.settle(ctx, true, false); err != nil || len(out.plan.Halts) > 0 {
			t.Fatalf("%v, %v", out.plan.Halts, err)
		}
	}
	settle([]string{""}, []string{""})
	runtime.ReadMemStats(&after)
	if len(host.t) != n+1 {
		t.Fatalf("%d of %d arrived", len(host.t), n+1)
	}
	total := host.looked + host.placed + guest.looked + guest.placed
	guest.t["d/0"] = tree.Entry{Kind: tree.Link, Target: "y"}
	settle(nil, []string{"d/0"})
	if host.t["d/0"].Target != "y" {
		t.Fatal("the change does not arrive")
	}
	return float64(total), float64(host.looked + host.placed + guest.looked + guest.placed - total), float64(after.Mallocs - before.Mallocs)
}

// TestW53_LargeFolder counts instead of taking the time: ten times the entries are ten times the work, and one
// change among them is one.
func TestW53_LargeFolder(t *testing.T) {
	first, one, allocs := work(t, 10_000)
	first10, one10, allocs10 := work(t, 100_000)
	if first10 > 11*first || allocs10 > 15*allocs {
		t.Errorf("10,000 entries: %.0f operations, %.0f allocations; 100,000: %.0f and %.0f", first, allocs, first10, allocs10)
	}
	if one != one10 || one > 4 {
		t.Errorf("one change costs %.0f operations among 10,000, %.0f among 100,000", one, one10)
	}
}

// oddTimes are what a peer or a broken clock may give a file.
func oddTimes() map[string]time.Time {
	return map[string]time.Time{
		"year 2500":         time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC),
		"year 1901":         time.Date(1901, 12, 14, 0, 0, 0, 0, time.UTC),
		"before 1970":       time.Unix(-1, 0),
		"a nanosecond":      time.Unix(1, 1),
		"nearly the next s": time.Unix(1, 999_999_999),
		"the beginning":     time.Unix(0, 0),
		"end of 32 bits":    time.Unix(1<<31, 0),
		"end of 64 bits":    time.Unix(0, 1<<63-1).Add(time.Second),
	}
}

// TestW63_OddTimes: a file's time is no part of it. It sets nothing in motion, and does not hide a change.
func TestW63_OddTimes(t *testing.T) {
	p := newPair(t, t.TempDir())
	defer p.stop()
	write(t, p.host, "f", "1")
	p.must(t)
	n := 1
	for name, at := range oddTimes() {
		for _, dir := range []string{p.host, p.guest} {
			full := filepath.Join(dir, "f")
			if err := os.Chtimes(full, at, at); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if out := p.must(t); len(out.plan.Actions)+len(out.plan.Held) > 0 {
					t.Errorf("%s in the %s's copy: %v, %v", name, filepath.Base(dir), out.plan.Actions, out.plan.Held)
				}
			}
			n++
			write(t, dir, "f", fmt.Sprint(n))
			if err := os.Chtimes(full, at, at); err != nil {
				t.Fatal(err)
			}
			p.must(t)
			if p.same(t); contents(p.host)["f"] != fmt.Sprint(n) {
				t.Errorf("%s: a change in the %s's copy is lost: %q", name, filepath.Base(dir), contents(p.host))
			}
		}
	}
}

// TestW63_TimesThatThePeerTells: the protocol has none; what a hostile agent adds is not read.
func TestW63_TimesThatThePeerTells(t *testing.T) {
	var told []map[string]any
	for i, v := range []any{int64(1<<63 - 1), int64(-1 << 63), -1, 1e300, "2500-01-01", []int{1}} {
		told = append(told, map[string]any{"p": fmt.Appendf(nil, "d%d", i), "k": tree.Folder, "mtime": v, "ctime": v, "Stamp": v, "m": v, "c": v})
	}
	r := newRig(t, nil)
	write(t, r.host, "mine", "1")
	mine := sha256.Sum256([]byte("1"))
	told = append(told, lie("mine", map[string]any{"n": 1, "h": mine[:]}))
	r.cfg.Remote = Remote{Dir: "/w", Agent: piped(hostile{entries: told}.serve), SFTP: piped(server{}.serve)}
	said := counted(&r.cfg.Remote)
	r.start(t)
	until(t, "the folders are made", func() bool { return len(contents(r.host)) >= 7 })
	until(t, "it comes to rest", func() bool {
		before := said.Load()
		time.Sleep(200 * time.Millisecond)
		return said.Load() == before
	})
	if contents(r.host)["mine"] != "1" {
		t.Errorf("%q", contents(r.host))
	}
}

// TestW65_GuestsClockIsOff: who changed a file since both agreed is what counts, not whose time is later.
func TestW65_GuestsClockIsOff(t *testing.T) {
	const day = 24 * time.Hour
	for _, off := range []time.Duration{-day, day, -365 * day, 365 * day} {
		t.Run(off.String(), func(t *testing.T) {
			p := newPair(t, t.TempDir())
			defer p.stop()
			stamp := func(name string, at time.Time) {
				t.Helper()
				if err := os.Chtimes(filepath.Join(p.guest, name), at, at); err != nil {
					t.Fatal(err)
				}
			}
			now := time.Now()
			for _, name := range []string{"host's", "guest's", "both", "gone"} {
				write(t, p.host, name, "agreed")
			}
			p.must(t)
			for name := range contents(p.guest) {
				stamp(name, now.Add(off))
			}
			write(t, p.host, "host's", "the host's")
			write(t, p.guest, "guest's", "the guest's")
			write(t, p.host, "both", "the host's")
			write(t, p.guest, "both", "the guest's")
			os.Remove(filepath.Join(p.host, "gone"))
			stamp("guest's", now.Add(off))
			stamp("both", now.Add(off))
			stamp("gone", now.Add(off))
			out := p.must(t)
			p.same(t)
			h := contents(p.host)
			if h["host's"] != "the host's" || h["guest's"] != "the guest's" || h["both"] != "the host's" || h["gone"] != "" {
				t.Errorf("%q", h)
			}
			kept := 0
			for name, content := range h {
				if strings.HasPrefix(name, "both"+tree.ConflictMark) && content == "the guest's" {
					kept++
				}
			}
			if kept != 1 {
				t.Errorf("the guest's version of the conflict: %q", h)
			}
			if out = p.must(t); len(out.plan.Actions) > 0 {
				t.Errorf("no rest: %v", out.plan.Actions)
			}
		})
	}
}

// TestW66_CoarseClocks: changes of the same size within one tick of a clock of one or two seconds are found, on
// both sides, and a time that comes back cut off is no change.
func TestW66_CoarseClocks(t *testing.T) {
	for _, tick := range []time.Duration{time.Second, 2 * time.Second} {
		p := newPair(t, t.TempDir())
		at := time.Now().Truncate(tick)
		coarse := func(dir string) {
			t.Helper()
			if err := os.Chtimes(filepath.Join(dir, "f"), at, at); err != nil {
				t.Fatal(err)
			}
		}
		write(t, p.host, "f", "0")
		p.must(t)
		for n := 1; n < 10; n++ {
			dir := []string{p.host, p.guest}[n%2]
			write(t, dir, "f", fmt.Sprint(n))
			coarse(p.host)
			coarse(p.guest)
			p.must(t)
			if p.same(t); contents(p.host)["f"] != fmt.Sprint(n) {
				t.Fatalf("change %d within a tick of %v is lost: %q", n, tick, contents(p.host))
			}
			coarse(p.host)
			coarse(p.guest)
			if out := p.must(t); len(out.plan.Actions) > 0 {
				t.Errorf("no rest: %v", out.plan.Actions)
			}
		}
		p.stop()
	}
}
