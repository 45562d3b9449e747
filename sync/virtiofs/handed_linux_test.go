package virtiofs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
)

// marks are the changes since the first checkpoint, with the reasons of those that have one, as `sbx diff` lists them.
func (w *world) marks(t *testing.T, dir string) map[string]string {
	t.Helper()
	h, err := w.readJournal(dir, 1)
	w.check(err)
	root, err := os.OpenRoot(w.dir)
	w.check(err)
	defer root.Close()
	handed, err := guard.NewHanded()
	w.check(err)
	changes, err := h.Changes(root)
	w.check(err)
	named, err := h.ChangesHanded(root, handed) // at the end of `sbx run`
	w.check(err)
	got := map[string]string{}
	for _, c := range changes {
		got[c.Path] = c.Handed(handed, root)
		if in := slices.ContainsFunc(named, func(n journal.Change) bool { return n.Path == c.Path }); in != (got[c.Path] != "") {
			t.Errorf("%q is marked %q and named at the end: %v", c.Path, got[c.Path], in)
		}
	}
	return got
}

// TestHandedRows: what a guest may change and the host's user's tools run is marked, by each way to bring it there.
func TestHandedRows(t *testing.T) {
	for row, paths := range map[string]string{
		"W88_attributes":   ".gitattributes sub/.GitAttributes .git/info/attributes .git/modules/a/info/attributes",
		"W92_gitmodules":   ".gitmodules",
		"W95_versions":     ".python-version .ruby-version",
		"W97_environments": ".venv/pyvenv.cfg .venv/bin/python .venv/bin/python3.12 .venv/bin/activate env/bin/pip",
		"W98_build_and_CI": "Makefile MAKEFILE2.mk package.json sub/package.json .github/workflows/ci.yml .gitlab-ci.yml Jenkinsfile pyproject.toml conftest.py " +
			"build.rs Cargo.toml Dockerfile compose.yaml vite.config.ts justfile",
	} {
		t.Run(row, func(t *testing.T) {
			w, dir := journaled(t)
			for i, path := range strings.Fields(paths) {
				switch i % 3 {
				case 0:
					w.makes(path)
				case 1: // it was there
					w.write(t, filepath.Join(w.dir, path), "the host's")
					w.guestPatch(path, "evil")
				case 2: // from another name
					w.makes(path)
					w.guestRemove(path)
					w.guestWrite("other", "evil")
					w.guestRename("other", path)
				}
			}
			w.guestWrite("notes", "x")
			marks := w.marks(t, dir)
			for _, path := range strings.Fields(paths) {
				if marks[path] == "" {
					t.Errorf("%q is not marked: %q", path, marks)
				}
			}
			if why, ok := marks["notes"]; !ok || why != "" {
				t.Errorf("an ordinary file: %q, %v", why, ok)
			}
		})
	}
	t.Run("W91_buried_repositories", buriedRepositories)
	t.Run("W98_executable_files", executableFiles)
	t.Run("W98_folders_by_links", foldersByLinks)
}

func buriedRepositories(t *testing.T) {
	w, dir := journaled(t)
	for _, d := range []string{"vendor", "vendor/x", "vendor/x/objects", "vendor/x/refs", "stage", "stage/objects", "stage/refs", "common", "wt"} {
		w.guestMkdir(d)
	}
	w.guestWrite("vendor/x/HEAD", "ref: refs/heads/main\n")
	w.guestWrite("vendor/x/config", "[core]\n\tfsmonitor = ./evil\n")
	// Moved in one piece.
	w.guestWrite("stage/HEAD", "ref: refs/heads/main\n")
	w.guestWrite("stage/config", "[core]\n\tfsmonitor = ./evil\n")
	w.guestRename("stage", "moved")
	// Its configuration is elsewhere.
	w.guestWrite("wt/HEAD", "ref: refs/heads/main\n")
	w.guestWrite("wt/commondir", "../common\n")
	// The host has one already.
	w.write(t, filepath.Join(w.dir, "mirror.git/HEAD"), "ref: refs/heads/main\n")
	w.write(t, filepath.Join(w.dir, "mirror.git/config"), "[core]\n\tbare = true\n")
	w.guestPatch("mirror.git/config", "[core]")
	w.guestWrite("mirror.git/config", "[core]\n\tfsmonitor = ./evil\n")
	w.guestWrite("config", "no repository")
	marks := w.marks(t, dir)
	for _, path := range []string{"vendor/x/HEAD", "vendor/x/config", "moved/HEAD", "moved/config", "wt/HEAD", "wt/commondir", "mirror.git/config"} {
		if marks[path] == "" {
			t.Errorf("%q is not marked: %q", path, marks)
		}
	}
	if why := marks["config"]; why != "" {
		t.Errorf("config of no repository: %q", why)
	}
	// Git's own work in the repository at the top is no such thing.
	w.write(t, filepath.Join(w.dir, ".git/HEAD"), "ref: refs/heads/main\n")
	w.write(t, filepath.Join(w.dir, ".git/config"), "[core]\n\tbare = false\n")
	w.guestWrite(".git/HEAD", "ref: refs/heads/other\n")
	if why, ok := w.marks(t, dir)[".git/HEAD"]; !ok || why != "" {
		t.Errorf(".git/HEAD: %q, %v", why, ok)
	}
}

func executableFiles(t *testing.T) {
	w, dir := journaled(t)
	mode := func(path string, mode uint32) {
		_, err := w.setattr(w.dirNode(path), 1<<0, mode, 0, 0)
		w.check(err)
	}
	for _, path := range []string{"tool", "was", "same", "less"} {
		w.write(t, filepath.Join(w.dir, path), "#!/bin/sh\n")
	}
	for _, path := range []string{"was", "less", "same"} {
		w.check(os.Chmod(filepath.Join(w.dir, path), 0o755))
	}
	w.guestWrite("made", "#!/bin/sh\n")
	mode("made", 0o755)
	mode("tool", 0o755)          // made executable
	w.guestPatch("was", "#!x")   // was, with another content
	mode("less", 0o644)          // is no more
	mode("same", 0o700)          // was, and is
	w.guestWrite("text", "text") // never
	marks := w.marks(t, dir)
	for _, path := range []string{"made", "tool", "was"} {
		if marks[path] != "executable" {
			t.Errorf("%q is not marked: %q", path, marks)
		}
	}
	for _, path := range []string{"less", "same", "text"} {
		if why, ok := marks[path]; !ok || why != "" {
			t.Errorf("%q: %q, %v", path, why, ok)
		}
	}
}

// foldersByLinks: what a link leads to is not at the path that tools look at, and the link is marked.
func foldersByLinks(t *testing.T) {
	w, dir := journaled(t)
	w.makes("evil/workflows/ci.yml")
	_, err := w.fuse(6, w.work, name(".github", "evil"))
	w.check(err)
	w.guestLink("other")
	marks := w.marks(t, dir)
	if marks[".github"] == "" || marks["other"] != "" {
		t.Errorf("%q", marks)
	}
}
