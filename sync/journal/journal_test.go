package journal

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// tb is what testing.T and rapid.T have both.
type tb interface {
	rapid.TB
	Cleanup(func())
}

// world is a workspace, its journal, and every byte string that the host's user wrote.
type world struct {
	t      tb
	dir    string
	root   *os.Root
	j      *Journal
	wrote  [][]byte
	serial int
}

func newWorld(t tb, limits Limits) *world {
	base, err := os.MkdirTemp("", "journal")
	must(t, err)
	w := &world{t: t, dir: filepath.Join(base, "journal")}
	must(t, os.Mkdir(w.dir, 0o700))
	must(t, os.Mkdir(filepath.Join(base, "work"), 0o700))
	w.root, err = os.OpenRoot(filepath.Join(base, "work"))
	must(t, err)
	w.j, err = Open(w.dir, limits, "up", slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { w.j.Close(); w.root.Close(); os.RemoveAll(base) })
	return w
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host writes as the host's user does, in place or by a new file; what a write destroys
// of the user's own is no longer asked for.
func (w *world) host(name string) {
	if old, err := w.root.ReadFile(name); err == nil {
		w.wrote = slices.DeleteFunc(w.wrote, func(b []byte) bool { return bytes.Equal(b, old) })
	}
	w.serial++
	content := fmt.Appendf(nil, "host %d", w.serial)
	if w.root.MkdirAll(filepath.Dir(name), 0o700) == nil && w.root.WriteFile(name, content, 0o600) == nil {
		w.wrote = append(w.wrote, content)
	}
}

func (w *world) guest(name string, do func() error) {
	must(w.t, w.j.Before(w.root, name))
	do() //nolint:errcheck // a refused change is a history as well
	must(w.t, w.j.After(w.root, name, w.serial%2 == 0))
}

func (w *world) write(name string) {
	w.serial++
	w.guest(name, func() error { return w.root.WriteFile(name, fmt.Appendf(nil, "guest %d", w.serial), 0o600) })
}

// undo ends the writer as a new run does, takes back and begins again.
func (w *world) undo(checkpoint int, limits Limits) Report {
	must(w.t, w.j.Close())
	r, err := Undo(w.dir, w.root, checkpoint, nil, limits, slog.New(slog.DiscardHandler))
	must(w.t, err)
	w.j, err = Open(w.dir, limits, "up", slog.New(slog.DiscardHandler))
	must(w.t, err)
	return r
}

// lost gives what the host's user wrote and is neither in the workspace nor in the journal.
func (w *world) lost() (lost []string) {
	found := map[string]bool{}
	must(w.t, filepath.WalkDir(filepath.Dir(w.dir), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			found[string(b)] = true
			return err
		}
		return err
	}))
	for _, b := range w.wrote {
		if !found[string(b)] {
			lost = append(lost, string(b))
		}
	}
	return lost
}

func TestNothingOfTheHostsIsLost(t *testing.T) {
	names := []string{"a", "b", "d/a", "d/e/a", "d", "d/e"}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, Limits{})
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1:
				w.host(name)
			case 2:
				w.write(name)
			case 3:
				w.guest(name, func() error { return w.root.Remove(name) })
			case 4:
				w.guest(name, func() error { return w.root.Mkdir(name, 0o700) })
			case 5:
				_, err := w.j.Checkpoint("test")
				must(t, err)
			case 6:
				w.undo(rapid.IntRange(1, w.j.number).Draw(t, "checkpoint"), Limits{})
			}
			if lost := w.lost(); len(lost) > 0 {
				t.Fatalf("lost: %q", lost)
			}
		}
	})
}

func (w *world) read(name string) string {
	b, err := w.root.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestUndoOfADeletedTreeKeepsTheEdit(t *testing.T) {
	w := newWorld(t, Limits{})
	w.host("d/ignored") // host 1
	w.host("d/e/file")  // host 2
	w.host("edited")    // host 3
	must(t, w.root.Symlink("d", "link"))
	for _, name := range []string{"link", "edited", "d/e/file", "d/e", "d/ignored", "d"} {
		w.guest(name, func() error { return w.root.Remove(name) })
	}
	w.write("new")
	w.host("edited") // host 5
	r := w.undo(1, Limits{})
	got := []string{w.read("d/ignored"), w.read("d/e/file"), w.read("edited"), w.read("link/ignored")}
	if !slices.Equal(got, []string{"host 1", "host 2", "host 5", "host 1"}) {
		t.Errorf("after undo: %q", got)
	}
	if _, err := w.root.Lstat("new"); err == nil {
		t.Error("the guest's file is still there")
	}
	if !slices.Equal(r.Conflicts, []string{"edited"}) || len(r.Missing) > 0 {
		t.Errorf("report %+v", r)
	}
	w.undo(r.Checkpoint, Limits{})
	if w.read("new") != "guest 4" || w.read("edited") != "host 5" {
		t.Errorf("after undo of undo: new %q, edited %q", w.read("new"), w.read("edited"))
	}
}

func TestTooBigIsNamedAndNotRemoved(t *testing.T) {
	limits := Limits{File: 3}
	w := newWorld(t, limits)
	w.host("big")
	w.write("big")
	if r := w.undo(1, limits); !slices.Equal(r.Missing, []string{"big"}) || w.read("big") != "guest 2" {
		t.Errorf("report %+v, content %q", r, w.read("big"))
	}
}

func TestATornLogIsReadUpToTheTear(t *testing.T) {
	for _, tear := range []string{"00000000 {}\n", "abc", "0123456789"} {
		line, err := record{Path: []byte("a\xff"), State: State{Kind: Absent}}.line()
		must(t, err)
		var got []string
		size, err := readLog(bytes.NewReader(append(line, tear...)), func(r record) { got = append(got, string(r.Path)) })
		if err != nil || size != int64(len(line)) || !slices.Equal(got, []string{"a\xff"}) {
			t.Errorf("after %q: %q, %d bytes of %d, %v", tear, got, size, len(line), err)
		}
	}
}

func TestDiffTellsWhoseTheChangeIs(t *testing.T) {
	w := newWorld(t, Limits{})
	w.host("both")
	w.host("gone")
	w.host("same")
	w.guest("gone", func() error { return w.root.Remove("gone") })
	w.guest("same", func() error { return nil })
	w.guest("temporary", func() error { return nil })
	w.write("both")
	must(t, w.root.WriteFile("both", []byte("the edit of the user"), 0o600))
	w.write("new")
	must(t, w.j.Close())
	changes, err := Diff(w.dir, w.root, 1)
	must(t, err)
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprint(c.Path, " ", c.Before.Kind, " ", c.Now.Kind, " ", c.Host))
	}
	if want := []string{"both file file true", "gone file absent false", "new absent file false"}; !slices.Equal(got, want) {
		t.Errorf("diff %q, want %q", got, want)
	}
	if _, err := Diff(w.dir, w.root, 7); err == nil {
		t.Error("a checkpoint that does not exist has a diff")
	}
	w.j, err = Open(w.dir, Limits{}, "up", slog.New(slog.DiscardHandler))
	must(t, err)
}
