package mirror

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/sbx-vm/sbx/sync/journal"
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
