package virtiofs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What the host's user told git to run or to read is protected, wherever in the workspace it is.
func TestWhatTheHostsGitIsLedTo(t *testing.T) {
	for what, c := range map[string]struct {
		prepare func(w *world, dir string)
		refused []string
	}{
		"a folder of hooks": {func(w *world, dir string) {
			w.write(t, filepath.Join(dir, ".git/config"), "[core]\n\thooksPath = scripts/hooks\n[include]\n\tpath = ../team.cfg\n")
		}, []string{"scripts/hooks/pre-commit", "team.cfg"}},
		"a file .git": {func(w *world, dir string) {
			w.write(t, filepath.Join(dir, ".git"), "gitdir: ./.bare\n")
			w.write(t, filepath.Join(dir, ".bare/HEAD"), "")
			w.write(t, filepath.Join(dir, ".bare/config"), "[core]\n\tbare = true\n\thooksPath = h\n")
		}, []string{".bare/hooks/x", ".bare/config.worktree", "h/x", ".bare/worktrees/a/commondir"}},
		"a link .git": {func(w *world, dir string) {
			w.write(t, filepath.Join(dir, "store/HEAD"), "")
			w.check(os.Symlink("store", filepath.Join(dir, ".git")))
		}, []string{"store/hooks/x", "store/config"}},
		"a FIFO .git": {func(w *world, dir string) { w.check(unix.Mkfifo(filepath.Join(dir, ".git"), 0o600)) }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorldWith(t, func(cfg *Config) {
				c.prepare(&world{frontend: &frontend{t: t}}, cfg.Exports[0].Path)
			})
			for _, path := range c.refused {
				if w.makes(path) {
					t.Errorf("the guest made %s", path)
				}
			}
			if !w.makes("other/x") {
				t.Error("the guest makes nothing at all")
			}
		})
	}
}
