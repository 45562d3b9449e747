package mirror

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/tree"
)

// TestJournal lets a guest overwrite and delete what the host has, by way of the mirror, and takes it back.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	record, err := journal.Record(dir, "workspace", "up", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer record.Close()
	r := newRig(t, func(c *Config) { c.Journal = record.Keeper })
	write(t, r.host, "src/main.go", "package main")
	write(t, r.host, "notes", "untracked")
	r.start(t)
	r.flush(t)
	id, err := record.Checkpoint("before the agent")
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.guest, "src/main.go", "overwritten")
	write(t, r.guest, "new/file", "made")
	os.Remove(filepath.Join(r.guest, "notes"))
	r.flush(t)
	if h := contents(r.host); h["src/main.go"] != "overwritten" || h["notes"] != "" || h["new/file"] != "made" {
		t.Fatalf("the guest's changes did not arrive: %v", h)
	}
	history, err := journal.Read(dir, "workspace", id)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(r.host)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	report := (&journal.Undoer{History: history, Root: root, Checkpoint: id}).Undo(nil)
	h := contents(r.host)
	if h["src/main.go"] != "package main" || h["notes"] != "untracked" || h["new/file"] != "" || len(report.Conflicts)+len(report.Missing) > 0 {
		t.Fatalf("not taken back: %v, %+v", h, report)
	}
	r.flush(t)
	if g := contents(r.guest); g["notes"] != "untracked" || g["src/main.go"] != "package main" || g["new/file"] != "" {
		t.Errorf("the guest's copy does not follow: %v", g)
	}
}

// TestEditInsteadOfAStepIsTheUsers: what the user wrote where a step was not done, because of it, is not taken for
// the guest's: the next change of the guest's keeps it.
func TestEditInsteadOfAStepIsTheUsers(t *testing.T) {
	dir := t.TempDir()
	record, err := journal.Record(dir, "workspace", "up", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer record.Close()
	p := newPair(t, t.TempDir())
	defer p.stop()
	write(t, p.host, "f", "agreed")
	p.must(t)
	k, err := openKept(p.host, record.Keeper)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	host := local{p.e.root, p.e.each, k}
	step := func(have, want string) error {
		t.Helper()
		f, name, err := p.e.root.Stage()
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(want)
		f.Close()
		entry := func(content string) tree.Entry {
			return tree.Entry{Kind: tree.File, Size: int64(len(content)), Hash: sha256.Sum256([]byte(content))}
		}
		results, err := host.Apply(context.Background(), stepsOf(tree.Action{Op: tree.Put, Side: tree.Host, Path: "f", Have: entry(have), Want: entry(want)}, name))
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	if err := step("agreed", "guest's one"); err != nil {
		t.Fatal(err)
	}
	write(t, p.host, "f", "the user's")
	if step("guest's one", "guest's two") == nil {
		t.Fatal("a step was done although the user changed the file")
	}
	if err := step("the user's", "guest's two"); err != nil {
		t.Fatal(err)
	}
	history, err := journal.Read(dir, "workspace", 1)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(p.host)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	report := (&journal.Undoer{History: history, Root: root, Checkpoint: 1}).Undo(nil)
	if h := contents(p.host); h["f"] != "the user's" {
		t.Errorf("%q; %+v", h, report)
	}
}
