package virtiofs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Git on the host makes config.lock, writes to it, and moves it to its place by name. A guest that is quick finds it
// in between: it gets nothing that would be the configuration afterwards, nor puts something in its place.
func TestLockOfTheHostsGit(t *testing.T) {
	w := newWorld(t)
	const evil = "[core]\n\tfsmonitor = ./evil\n"
	for _, dir := range []string{".git", "sub/.git", ".git/modules/a", ".git/worktrees/t/modules/a"} {
		lock := filepath.Join(w.dir, dir, "config.lock")
		w.write(t, lock, "[core]\n\tbare = false\n")
		w.write(t, filepath.Join(w.dir, "x"), evil)
		git, err := w.node(dir)
		w.check(err)
		node, err := w.lookup(git, "config.lock")
		w.check(err)
		_, err = w.openToWrite(node, 0)
		w.want("open", err, unix.EPERM)
		_, _, err = w.create(git, "config.lock", unix.O_RDWR, 0o644)
		w.want("open by name", err, unix.EPERM)
		_, err = w.fuse(13, w.work, pack(node), name("alias"))
		w.want("another name for it", err, unix.EPERM)
		_, err = w.setattr(node, 1<<3, 0, 0, 0)
		w.want("cut it off", err, unix.EPERM)
		_, err = w.fuse(10, git, name("config.lock"))
		w.want("remove it", err, unix.EPERM)
		_, err = w.fuse(12, git, pack(git), name("config.lock", "other"))
		w.want("move it away", err, unix.EPERM)
		_, err = w.fuse(12, git, pack(git), name("config.lock", "config"))
		w.want("put it in place", err, unix.EPERM)
		_, err = w.fuse(12, w.work, pack(git), name("x", "config.lock"))
		w.want("move another over it", err, unix.EPERM)
		_, err = w.fuse(45, w.work, pack(git), words(unix.RENAME_EXCHANGE, 0), name("x", "config.lock"))
		w.want("exchange it", err, unix.EPERM)
		w.check(os.Rename(lock, filepath.Join(w.dir, dir, "config")))
		w.holds(dir+"/config", "[core]\n\tbare = false\n")
		w.want("the guest's own", w.commitConfig(git, "[core]\n\tbare = false\n[user]\n\tname = a\n"), nil)
		_, _, err = w.create(git, "config.lock", unix.O_RDWR|unix.O_EXCL, 0o644)
		w.check(err)
		_, err = w.fuse(10, git, name("config.lock"))
		w.want("the guest gives its own up", err, nil)
	}
}
