package virtiofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// newReserved is a world whose first export has a disk of its own, of so many MiB.
func newReserved(t *testing.T, size string, reserve int64) (*world, *lines) {
	t.Helper()
	l := &lines{}
	edit := func(cfg *Config) {
		cfg.Reserve, cfg.Journal = reserve, t.TempDir()
		if size == "" {
			return
		}
		if err := unix.Mount("none", cfg.Exports[0].Path, "tmpfs", 0, "mode=755,size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(cfg.Exports[0].Path, 0); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorldServed(t, edit, func(ctx context.Context, conn *net.UnixConn, cfg Config) error {
		return Serve(ctx, conn, cfg, slog.New(slog.NewTextHandler(l, nil)))
	})
	return w, l
}

// available is what the guest is told to be free, in bytes.
func (w *world) available(node uint64) int64 {
	w.t.Helper()
	out, err := w.fuse(17, node, nil)
	w.check(err)
	e := binary.NativeEndian
	if free, avail := e.Uint64(out[8:]), e.Uint64(out[16:]); avail > free {
		w.t.Errorf("%d blocks are free and %d available", free, avail)
	}
	return int64(e.Uint64(out[16:])) * int64(e.Uint32(out[48:]))
}

func (w *world) onDisk() int64 {
	w.t.Helper()
	var st unix.Statfs_t
	w.check(unix.Statfs(w.dir, &st))
	return int64(st.Bavail) * st.Frsize
}

func (w *world) allocate(node, h uint64, mode uint32, offset, size uint64) error {
	_, err := w.fuse(43, node, pack(h, offset, size), words(mode, 0))
	return err
}

func (w *world) truncate(node uint64, size uint64) error {
	_, err := w.fuse(4, node, words(1<<3, 0), pack(0, size, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
	return err
}

// guestFillsDisk: a guest writes until it may not, in the ways that there are. The reserve is still free then, what the
// guest removes it can write again, and its programs see a full disk.
func guestFillsDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk takes root")
	}
	const reserve = 16 * mib / 10
	w, log := newReserved(t, "16m", 0)
	w.guestWrite("kept", "kept")
	if got, is := w.available(w.work), w.onDisk(); got > is-reserve || got < is-reserve-8192 {
		t.Errorf("the guest is told of %d bytes, %d are free", got, is)
	}
	node, h, err := w.create(w.work, "filler", unix.O_RDWR, 0o644)
	w.check(err)
	data, at := bytes.Repeat([]byte("x"), 64<<10), uint64(0)
	for err == nil {
		if err = w.writeAt(h, string(data), at); err == nil {
			at += uint64(len(data))
		}
	}
	w.want("write", err, unix.ENOSPC)
	if free := w.onDisk(); free < reserve || free > reserve+int64(len(data))+64<<10 {
		t.Errorf("%d bytes are free, the reserve is %d", free, reserve)
	}
	w.want("fallocate", w.allocate(node, h, 0, at, mib), unix.ENOSPC)
	w.want("keep size", w.allocate(node, h, unix.FALLOC_FL_KEEP_SIZE, at, mib), unix.ENOSPC)
	_, err = w.fuse(47, node, pack(h, 0), pack(node, h, at, mib, 0))
	w.want("copy_file_range", err, unix.ENOSPC)
	if got := w.available(w.work); got > int64(len(data))+64<<10 {
		t.Errorf("the guest is told of %d bytes", got)
	}
	const line = `level=WARN msg="no room for the guest: the rest of the disk is the host's" export=work free=`
	if got := log.take(); !strings.Contains(got, line) || strings.Count(got, "\n") != 1 {
		t.Errorf("the log has %q", got)
	}
	w.check(w.truncate(node, at-mib))
	w.check(w.writeAt(h, string(data), at-mib))
	w.guestRename("filler", "moved")
	w.guestRemove("moved")
	w.fuse(18, node, pack(h), words(0, 0), pack(0))
	w.guestWrite("again", "again")
	w.holds("again", "again")
	w.holds("kept", "kept")
}

// TestReserveIsNotUsed: with less free than the reserve nothing that takes room is done, and all that gives room is.
func TestReserveIsNotUsed(t *testing.T) {
	w, _ := newReserved(t, "", 1<<60)
	w.write(t, filepath.Join(w.dir, "f"), "content")
	w.write(t, filepath.Join(w.dir, "g"), "content")
	w.check(os.Mkdir(filepath.Join(w.dir, "d"), 0o755))
	if got := w.available(w.work); got != 0 {
		t.Errorf("the guest is told of %d bytes", got)
	}
	node := w.dirNode("f")
	h, err := w.openToWrite(node, 0)
	w.check(err)
	for what, take := range map[string]func() error{
		"create":  func() error { _, _, err := w.create(w.work, "new", unix.O_RDWR, 0o644); return err },
		"tmpfile": func() error { _, err := w.fuse(51, w.work, words(unix.O_RDWR, 0o644, 0, 0), name("/")); return err },
		"mkdir":   func() error { _, err := w.fuse(9, w.work, words(0o755, 0), name("new")); return err },
		"mknod":   func() error { _, err := w.fuse(8, w.work, words(unix.S_IFIFO|0o644, 0, 0, 0), name("new")); return err },
		"symlink": func() error { _, err := w.fuse(6, w.work, name("new", "target")); return err },
		"link":    func() error { _, err := w.fuse(13, w.work, pack(node), name("new")); return err },
		"xattr":   func() error { _, err := w.fuse(21, node, words(1, 0), name("user.a"), []byte("x")); return err },
		"write":   func() error { return w.writeAt(h, "x", 0) },
		"far":     func() error { return w.writeAt(h, "x", 1<<40) },
		"grow":    func() error { return w.truncate(node, 1<<40) },
		"grow by handle": func() error {
			_, err := w.fuse(4, node, words(1<<3|1<<6, 0), pack(h, 1<<20, 0, 0, 0, 0), words(0, 0, 0, 0, 0, 0, 0, 0))
			return err
		},
		"allocate": func() error { return w.allocate(node, h, 0, 0, 1<<20) },
		"no end":   func() error { return w.allocate(node, h, 0, 1, 1<<63-1) },
		"zero":     func() error { return w.allocate(node, h, unix.FALLOC_FL_ZERO_RANGE, 0, 4096) },
	} {
		w.want(what, take(), unix.ENOSPC)
	}
	if _, err := os.Lstat(filepath.Join(w.dir, "new")); err == nil {
		t.Error("something was made")
	}
	_, err = w.fuse(9, w.work, words(0o755, 0), name("d"))
	w.want("mkdir of what is there", err, unix.EEXIST)
	_, _, err = w.create(w.work, "f", unix.O_RDWR|unix.O_EXCL, 0o644)
	w.want("create of what is there", err, unix.EEXIST)
	_, _, err = w.create(w.work, "f", unix.O_RDWR, 0o644)
	w.want("open of what is there", err, nil)
	w.holds("f", "content")
	_, err = w.setattr(node, 1<<0, 0o600, 0, 0)
	w.want("mode", err, nil)
	w.want("same size", w.truncate(node, 7), nil)
	w.want("smaller", w.truncate(node, 3), nil)
	w.want("a hole", w.allocate(node, h, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1), nil)
	_, err = w.openToWrite(node, unix.O_TRUNC)
	w.want("cut off", err, nil)
	w.guestRename("g", "moved")
	w.holds("moved", "content")
	w.guestRemove("moved")
	w.guestRemove("d")
	if left, err := os.ReadDir(w.dir); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v", left, err)
	}
	if got, err := w.readAll(node); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNoReserve: the user can turn it off, and a folder to read only needs none.
func TestNoReserve(t *testing.T) {
	w, _ := newReserved(t, "", -1)
	w.guestWrite("f", "x")
	w.holds("f", "x")
	w, _ = newReserved(t, "", 1<<60)
	if got := w.available(w.ro); got == 0 {
		t.Error("the guest is told that the read-only folder's disk is full")
	}
}
