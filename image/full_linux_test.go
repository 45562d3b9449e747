package image

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/image/archivetest"
)

// tmpfs mounts a file system of so many bytes for the test.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting a small file system takes root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that fills up at any point of a build is one clear error; nothing
// half-made stays, and with room the next try succeeds.
func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, "40k")
	w := newWorld(t)
	noise := make([]byte, 200<<10) // does not compress
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	w.Add(t, archivetest.Suite{Name: "trixie-updates", Packages: []archivetest.Package{
		{Name: "tool", Version: "3", Files: map[string]string{"./noise": string(noise)}},
	}})
	store, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	for _, size := range []string{"40k", "240k", "300k", "500k"} {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
		_, err := w.ensure(t)
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
			t.Fatalf("%s: error is %v", size, err)
		}
		w.checkClean(t, 0)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	img, err := w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(img.Root); err != nil {
		t.Error(err)
	}
}
