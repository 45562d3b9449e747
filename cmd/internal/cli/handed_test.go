package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/sync/journal"
)

// TestW102_HandedText: a few are named, escaped, the rest counted.
func TestW102_HandedText(t *testing.T) {
	got := handedText([]journal.Change{{Path: "Makefile"}, {Path: "a\x1b[2J\u202e\xff/Makefile"}}, 4)
	if want := `sbx: the guest changed files that your tools run: Makefile, a\x1b[2J\u202e\xff/Makefile (sbx diff 4)`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := handedText(make([]journal.Change, 1000), 1); !strings.HasSuffix(got, " and 995 more (sbx diff 1)") || len(got) > 200 {
		t.Errorf("of many: %s", got)
	}
}

// TestW91_W98_WaitingChanges: in mode review, what waits has reasons too, by what it would bring and what is there.
func TestW91_W98_WaitingChanges(t *testing.T) {
	project := t.TempDir()
	if err := os.MkdirAll(filepath.Join(project, "mirror"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(project, "mirror/HEAD"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, folder, link := control.Version{Kind: "file"}, control.Version{Kind: "folder"}, control.Version{Kind: "link"}
	var changes []control.Change
	for path, guest := range map[string]control.Version{
		"Makefile": file, "package.json": {}, ".github/workflows": folder, ".github": link, "notes": file,
		"x/HEAD": file, "x/config": file, "mirror/config": file, "y/config": file, "y/HEAD": {},
	} {
		changes = append(changes, control.Change{ID: path, Path: path, Guest: guest})
	}
	runs, err := reasons(project, changes)
	if err != nil {
		t.Fatal(err)
	}
	for path, marked := range map[string]bool{
		"Makefile": true, "package.json": false, ".github/workflows": false, ".github": true, "notes": false,
		"x/HEAD": true, "x/config": true, "mirror/config": true, "y/config": false,
	} {
		if (runs[path] != "") != marked {
			t.Errorf("%s: %q", path, runs[path])
		}
	}
}
