package virtiofs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Less is protected among packages: no link makes that stand elsewhere.
func TestNoLinkIntoPackages(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, "node_modules/app/.vscode/tasks.json"), "")
	w.write(t, filepath.Join(w.dir, "packages/a/f"), "")
	link := func(dir uint64, target, n string) error {
		_, err := w.fuse(6, dir, name(n, target))
		return err
	}
	packages := w.dirNode("node_modules")
	for _, target := range []string{"node_modules/app", "./node_modules/app", "packages/../node_modules/app", "Node_Modules/app", "/workspace/node_modules/app"} {
		w.want("link to "+target, link(w.work, target, "app"), unix.EPERM)
	}
	w.want("of a package to another", link(packages, "../node_modules/app", "b"), nil)
	w.want("of a package of the workspace", link(packages, "../packages/a", "a"), nil)
	w.want("of all packages", link(w.dirNode("packages", "a"), "../../node_modules", "node_modules"), nil)
	w.want("elsewhere", link(w.work, "packages/a", "l"), nil)
	_, err := w.fuse(12, packages, pack(w.work), name("b", "app"))
	w.want("move such a link out", err, unix.EXDEV)
}

// A link that leads out is made, since it is bytes to the server, and told of; links over links are resolved by the kernel.
func TestW21_W22_LinksThatLeadOutAreTold(t *testing.T) {
	w, log := newLogged(t)
	w.check(os.MkdirAll(filepath.Join(w.dir, "d1/d2"), 0o755))
	link := func(dir uint64, target, n string) string {
		log.take()
		_, err := w.fuse(6, dir, name(n, target))
		w.check(err)
		return log.take()
	}
	link(w.dirNode("d1", "d2"), "..", "l1")
	for target, out := range map[string]bool{"/etc/passwd": true, "../canary": true, "d1/d2/l1/../..": true, "d1/d2": false, "absent": false} {
		if got := link(w.work, target, "l"); strings.Contains(got, "leads out") != out {
			t.Errorf("%s: the log has %q", target, got)
		}
		w.guestRemove("l")
	}
}

// What is protected stays so, and the rest may be changed, while the host's user moves the folder that is shared.
func TestSharedFolderThatIsMoved(t *testing.T) {
	w := newWorld(t)
	for _, to := range []string{"moved", "moved again", "moved"} {
		next := filepath.Join(filepath.Dir(w.dir), to)
		w.check(os.Rename(w.dir, next))
		w.dir = next
		node, h, err := w.create(w.work, "f", unix.O_WRONLY|unix.O_EXCL, 0o100644)
		w.check(err)
		_, err = w.fuse(18, node, pack(h), words(0, 0), pack(0))
		w.check(err)
		_, err = w.fuse(10, w.work, name("f"))
		w.check(err)
		_, _, err = w.create(w.work, ".envrc", unix.O_WRONLY, 0o100644)
		w.want("a protected name", err, unix.EPERM)
	}
}
