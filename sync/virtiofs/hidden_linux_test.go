package virtiofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// What the guest has open of a masked file is memory of the host's: it neither grows nor changes by the guest's word.
func TestMaskedFileTakesNoMemoryOfTheGuestsChoice(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".env"), secretEnv)
	w.write(t, filepath.Join(w.dir, "big"), strings.Repeat("x", 8192))
	node := w.dirNode(".env")
	out, err := w.fuse(14, node, words(unix.O_RDONLY, 0))
	w.check(err)
	h := binary.NativeEndian.Uint64(out)
	for _, at := range []uint64{0, 1 << 30} {
		if err := w.writeAt(h, "evil", at); err == nil {
			t.Errorf("written at %d", at)
		}
	}
	_, err = w.fuse(43, node, pack(h, 0, 1<<20), words(0, 0))
	if err == nil {
		t.Error("fallocate made it larger")
	}
	big := w.dirNode("big")
	source, err := w.fuse(14, big, words(unix.O_RDONLY, 0))
	w.check(err)
	if _, err = w.fuse(47, big, source[:8], pack(0, node, h, 0, 8192, 0)); err == nil {
		t.Error("copied into it")
	}
	data, err := w.fuse(15, node, pack(h, 0), words(4096, 0), pack(0, 0))
	if err != nil || string(data) != "API_KEY=masked-by-sbx\n" {
		t.Errorf("the guest reads %q, %v", data, err)
	}
}

// However often a guest opens what is left of a masked file, the memory has an end, and comes back.
func TestMaskedFilesOpenManyTimes(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".env"), strings.Repeat("ABCDEFGH=\n", guard.MaxRender/10-1))
	node := w.dirNode(".env")
	var open []uint64
	var err error
	for err == nil && len(open) < 200 {
		var out []byte
		if out, err = w.fuse(14, node, words(unix.O_RDONLY, 0)); err == nil {
			open = append(open, binary.NativeEndian.Uint64(out))
		}
	}
	w.want("one too many", err, unix.ENFILE)
	for _, h := range open {
		_, err := w.fuse(18, node, pack(h), words(0, 0), pack(0))
		w.check(err)
	}
	_, err = w.fuse(14, node, words(unix.O_RDONLY, 0))
	w.want("after they were closed", err, nil)
}

// A folder is not moved to where a pattern takes a mask back from what is in it.
func TestMaskIsNotTakenBackByAMove(t *testing.T) {
	w := newWorldWith(t, func(c *Config) { c.Mask = []string{"!shown/.env", "!open"} })
	for _, target := range []string{".env.example", "shown", "open", "open/x", "x/.env.sample"} {
		w.write(t, filepath.Join(w.dir, "conf/.env"), secretEnv)
		for dir := filepath.Dir(target); dir != "."; dir = filepath.Dir(dir) {
			w.guestMkdir(dir)
		}
		w.guestRename("conf", target)
		if node, err := w.node(target + "/.env"); err == nil {
			if got, err := w.readAll(node); err == nil && strings.Contains(got, "hunter2") {
				t.Errorf("moved to %s the guest reads %q", target, got)
			}
		}
		w.check(os.RemoveAll(filepath.Join(w.dir, target)))
	}
}

// What the guest had in its hands before does not show it what the host's user writes into a masked file later.
func TestNoWayIntoAMaskedFileIsKept(t *testing.T) {
	for what, prepare := range map[string]func(w *world) (handle, node uint64){
		"made": func(w *world) (uint64, uint64) {
			node, h, err := w.create(w.work, ".env", unix.O_RDWR, 0o100644)
			w.check(err)
			return h, node
		},
		"renamed": func(w *world) (uint64, uint64) {
			node, h, err := w.create(w.work, "x", unix.O_RDWR, 0o100644)
			w.check(err)
			w.guestRename("x", ".env")
			return h, node
		},
		"linked": func(w *world) (uint64, uint64) {
			node, h, err := w.create(w.work, "x", unix.O_RDWR, 0o100644)
			w.check(err)
			_, _ = w.fuse(13, w.work, pack(node), name(".env"))
			return h, node
		},
		"linked without a name": func(w *world) (uint64, uint64) {
			out, err := w.fuse(51, w.work, words(unix.O_RDWR, 0o644, 0, 0), name("/"))
			w.check(err)
			node, h := binary.NativeEndian.Uint64(out), binary.NativeEndian.Uint64(out[128:])
			_, _ = w.fuse(13, w.work, pack(node), name(".env"))
			return h, node
		},
		"exchanged": func(w *world) (uint64, uint64) {
			node, h, err := w.create(w.work, "x", unix.O_RDWR, 0o100644)
			w.check(err)
			w.guestMkdir(".env")
			_, _ = w.fuse(45, w.work, pack(w.work), words(unix.RENAME_EXCHANGE, 0), name("x", ".env"))
			return h, node
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			h, node := prepare(w)
			f, err := os.OpenFile(filepath.Join(w.dir, ".env"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return // the guest's folder of that name
			}
			_, err = f.WriteString(secretEnv)
			w.check(err)
			w.check(f.Close())
			if data, err := w.fuse(15, 0, pack(h, 0), words(4096, 0), pack(0, 0)); err == nil && bytes.Contains(data, []byte("hunter2")) {
				t.Errorf("by the descriptor the guest reads %q", data)
			}
			if got, err := w.readAll(node); err == nil && strings.Contains(got, "hunter2") {
				t.Errorf("by the node the guest reads %q", got)
			}
			_, err = w.exchange(request(2, node, pack(1<<40))) // forget
			w.check(err)
			if x, err := w.lookup(w.work, "x"); err == nil {
				if got, err := w.readAll(x); err == nil && strings.Contains(got, "hunter2") {
					t.Errorf("by another name the guest reads %q", got)
				}
			}
		})
	}
}

// A folder that the guest knows by a number does not become a masked one under it.
func TestNoFolderBecomesAMaskedOne(t *testing.T) {
	w := newWorld(t)
	for i, masked := range []string{".aws", ".docker"} {
		dir := fmt.Sprint("d", i)
		w.guestMkdir(dir)
		w.guestWrite(dir+"/config.json", "x")
		node := w.dirNode(dir)
		w.guestRename(dir, masked)
		w.write(t, filepath.Join(w.dir, masked, "credentials"), secretEnv)
		w.write(t, filepath.Join(w.dir, masked, "config.json"), secretEnv)
		for _, file := range []string{"credentials", "config.json"} {
			if masked == ".docker" && file == "credentials" {
				continue
			}
			if n, err := w.lookup(node, file); err == nil {
				if got, err := w.readAll(n); err == nil && strings.Contains(got, "hunter2") {
					t.Errorf("in %s the guest reads %s as %q", masked, file, got)
				}
			}
		}
	}
}

// A user's .env that is a link keeps its secrets where it leads.
func TestWhatAMaskedLinkLeadsToIsMasked(t *testing.T) {
	w := newWorldWith(t, func(c *Config) {
		dir := c.Exports[0].Path
		for _, err := range []error{
			os.MkdirAll(filepath.Join(dir, "env"), 0o755), os.WriteFile(filepath.Join(dir, "env/de*v"), []byte(secretEnv), 0o600),
			os.Symlink("env/de*v", filepath.Join(dir, ".env")), os.Symlink("../canary", filepath.Join(dir, ".env.out")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	w.write(t, filepath.Join(w.dir, "env/deev"), "plain")
	if got, err := w.readAll(w.dirNode("env", "de*v")); err != nil || got != "" {
		t.Errorf("the guest reads %q, %v", got, err)
	}
	if got, err := w.readAll(w.dirNode("env", "deev")); err != nil || got != "plain" {
		t.Errorf("of another file the guest reads %q, %v", got, err)
	}
}
