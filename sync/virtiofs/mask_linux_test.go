package virtiofs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const secretEnv = "API_KEY=hunter2\n"

// readAll opens and reads a file as a guest does.
func (w *world) readAll(node uint64) (string, error) {
	out, err := w.fuse(14, node, words(unix.O_RDONLY, 0))
	if err != nil {
		return "", err
	}
	data, err := w.fuse(15, node, out[:8], pack(0), words(4096, 0), pack(0, 0))
	return string(data), err
}

func TestMaskedContentStaysOnTheHost(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{".env", "conf/.env.local", "keys/id_rsa", "hidden/x/y", ".aws/credentials"} {
		w.write(t, filepath.Join(w.dir, name), secretEnv)
	}
	for path, want := range map[string]string{
		".env": "API_KEY=masked-by-sbx\n", "conf/.env.local": "API_KEY=masked-by-sbx\n", "keys/id_rsa": "", "hidden/x/y": "", ".aws/credentials": "",
	} {
		parts := strings.Split(path, "/")
		dir, last := w.dirNode(parts[:len(parts)-1]...), parts[len(parts)-1]
		node, err := w.lookup(dir, last)
		w.check(err)
		if got, err := w.readAll(node); err != nil || got != want {
			t.Errorf("%s: the guest reads %q, %v", path, got, err)
		}
		_, err = w.fuse(14, node, words(unix.O_RDWR, 0))
		w.want("open for writing", err, unix.EPERM)
		_, err = w.fuse(14, node, words(unix.O_RDONLY|unix.O_TRUNC, 0))
		w.want("truncate", err, unix.EPERM)
		_, err = w.setattr(node, 1<<3, 0, 0, 0)
		w.want("set the size", err, unix.EPERM)
		_, err = w.setattr(node, 1<<0, 0o777, 0, 0)
		w.want("chmod", err, nil)
		_, err = w.fuse(10, dir, name(last))
		w.want("unlink", err, unix.EPERM)
		_, err = w.fuse(12, dir, pack(w.work), name(last, "plain"))
		w.want("rename away", err, unix.EPERM)
		_, err = w.fuse(13, w.work, pack(node), name("plain"))
		w.want("link", err, unix.EPERM)
		if got, err := os.ReadFile(filepath.Join(w.dir, path)); err != nil || string(got) != secretEnv {
			t.Errorf("%s on the host: %q, %v", path, got, err)
		}
		if info, err := os.Stat(filepath.Join(w.dir, path)); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
}

// The host's changes show, as names.
func TestMaskedFileFollowsTheHost(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".env"), secretEnv)
	node, err := w.lookup(w.work, ".env")
	w.check(err)
	w.write(t, filepath.Join(w.dir, ".env"), secretEnv+"OTHER=x\n")
	if got, err := w.readAll(node); err != nil || got != "API_KEY=masked-by-sbx\nOTHER=masked-by-sbx\n" {
		t.Errorf("the guest reads %q, %v", got, err)
	}
}

// A clone brings such files along: made, written and closed; from then on masked.
func TestGuestMakesAMaskedName(t *testing.T) {
	w := newWorld(t)
	node, h, err := w.create(w.work, ".env", unix.O_WRONLY, 0o100644)
	w.check(err)
	_, err = w.fuse(16, node, pack(h, 0), words(4, 0), pack(0, 0), []byte("A=b\n"))
	w.check(err)
	if got, err := os.ReadFile(filepath.Join(w.dir, ".env")); err != nil || string(got) != "A=b\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	if got, err := w.readAll(node); err != nil || got != "A=masked-by-sbx\n" {
		t.Errorf("the guest reads %q, %v", got, err)
	}
	_, _, err = w.create(w.work, "other", unix.O_WRONLY, 0o100644)
	w.check(err)
	_, err = w.fuse(12, w.work, pack(w.work), name("other", ".env"))
	w.want("rename over", err, unix.EPERM)
}

// Less is masked among packages: a folder with something masked is not moved there, only copied.
func TestMaskedDoesNotMoveIntoPackages(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, "conf/deep/.env"), secretEnv)
	w.write(t, filepath.Join(w.dir, "plain/f"), "x")
	w.write(t, filepath.Join(w.dir, "node_modules/a/.env"), "A=public\n")
	packages := w.dirNode("node_modules")
	_, err := w.fuse(12, w.work, pack(packages), name("conf", "conf"))
	w.want("move in", err, unix.EXDEV)
	_, err = w.fuse(12, w.work, pack(packages), name("plain", "plain"))
	w.want("move in what hides nothing", err, nil)
	node, err := w.lookup(w.dirNode("node_modules", "a"), ".env")
	w.check(err)
	if got, err := w.readAll(node); err != nil || got != "A=public\n" {
		t.Errorf("among packages the guest reads %q, %v", got, err)
	}
}
