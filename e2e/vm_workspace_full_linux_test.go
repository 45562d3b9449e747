package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// small puts a disk of so many KiB at a folder, with the folder's owner and mode.
func small(t *testing.T, w *world, dir string, kib int) {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=%o,uid=%d,gid=%d", kib, st.Mode&0o777, st.Uid, st.Gid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.run("rm", "--all", "-f")
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

func freeOf(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Frsize
}

// fill takes all that is left of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=1k").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("fill: %v %s", err, out)
	}
}

// onFull are writes of all kinds. Each prints the error that it must get, and none may wait for ever.
const onFull = `
import errno, mmap, os
def tried(what, f):
    try: f()
    except OSError as e: print(what, errno.errorcode[e.errno])
    else: print(what, "no error")
def write():
    with open("more", "ab", buffering=0) as f:
        while True: f.write(b"x" * 65536)
def memory():
    f = open("sparse", "r+b")
    m = mmap.mmap(f.fileno(), 1 << 20)
    for page in range(0, 1 << 20, 4096): m[page] = 1
    m.flush()
def allocate():
    with open("more", "ab") as f: os.posix_fallocate(f.fileno(), 0, 1 << 30)
tried("write", write)
tried("memory", memory)
tried("allocate", allocate)
print(open("kept").read())
`

// TestVMFullDisk: the disk of the workspace is full, but for what the guest may not use, and the one of the journal.
func TestVMFullDisk(t *testing.T) {
	w := newWorld(t, "full")
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk takes root")
	}
	small(t, w, w.project, 16384)
	w.ok(t, "up")
	w.write(t, "kept", "kept")
	w.write(t, "full.py", onFull)
	w.sh(t, "truncate -s 1M sparse; cp /bin/true program")
	r := w.run("exec", "--", "dd", "if=/dev/zero", "of=filler", "bs=64k")
	if r.status == 0 || !strings.Contains(r.err, "No space left on device") {
		t.Errorf("dd: status %d after %v: %s", r.status, r.took, r.err)
	}
	const reserve = 16384 << 10 / 10
	if free := freeOf(t, w.project); free < reserve {
		t.Errorf("the guest left %d bytes, and may not go below %d", free, reserve)
	}
	out := w.ok(t, "exec", "--", "timeout", "60", "python3", "full.py")
	for _, want := range []string{"write ENOSPC\n", "allocate ENOSPC\n", "kept\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	if !strings.Contains(out, "memory ENOSPC\n") && !strings.Contains(out, "memory EIO\n") {
		t.Errorf("written to memory: %q", out)
	}
	w.sh(t, "./program && rm -f filler more && echo again > new && cat new kept")
	if got := w.read(t, "kept") + w.read(t, "new"); got != "keptagain\n" {
		t.Errorf("afterwards: %q", got)
	}
	if log := w.ok(t, "logs", "--kind", "files"); !strings.Contains(log, "no room for the guest") {
		t.Errorf("the log does not say so:\n%s", tail(log))
	}
	t.Run("journal", func(t *testing.T) { testFullJournal(t, w) })
}

// testFullJournal: what cannot be kept may not be changed, and the guest and the log say so; the guest's own files
// and what there is room for are as ever.
func testFullJournal(t *testing.T, w *world) {
	dirs, err := filepath.Glob(filepath.Join(w.base, "*/sbx/*/*/journal"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("the journal is not one of %q", dirs)
	}
	w.ok(t, "stop")
	small(t, w, dirs[0], 256)
	w.ok(t, "up")
	label := strings.TrimSpace(w.ok(t, "checkpoint", "make", "-m", "full"))
	large := strings.Repeat("l", 1<<20)
	w.write(t, "large", large)
	for _, name := range []string{"one", "two", "three"} {
		w.write(t, name, "host's")
	}
	const full = "No space left on device"
	if r := w.run("exec", "--", "sh", "-c", "echo guest > large; rm large; echo guest > one"); strings.Count(r.err, full) != 2 {
		t.Errorf("large was changed without its old version: %d %q", r.status, r.err)
	}
	fill(t, filepath.Join(dirs[0], "filler"))
	if r := w.run("exec", "--", "sh", "-c", "echo own > own && echo more >> own && rm own; echo guest > two"); strings.Count(r.err, full) != 1 {
		t.Errorf("two was changed without its old version: %d %q", r.status, r.err)
	}
	if err := os.Remove(filepath.Join(dirs[0], "filler")); err != nil {
		t.Fatal(err)
	}
	w.sh(t, "echo guest > three")
	log := w.ok(t, "logs", "--kind", "files")
	if want := "what it did not make\" path=large why=\"no space left on device\""; !strings.Contains(log, want) {
		t.Errorf("%q is not in the log:\n%s", want, tail(log))
	}
	w.ok(t, "undo", label)
	for name, want := range map[string]string{"one": "host's", "three": "host's", "two": "host's", "large": large} {
		if got := w.read(t, name); got != want {
			t.Errorf("%s holds %.20q, want %.20q", name, got, want)
		}
	}
}
