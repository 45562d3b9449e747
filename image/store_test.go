package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStoreForgetsOnlyWhatItIsTold(t *testing.T) {
	w := newWorld(t)
	img, err := w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "..", "../blobs", "0000000000000000", ".tmp-x"} {
		if err := w.store.Rm(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("rm %q: %v", id, err)
		}
	}
	removed, err := w.store.Prune(func(id string) bool { return id == img.ID })
	if err != nil || len(removed) != 0 {
		t.Errorf("prune of used: %v, %v", removed, err)
	}
	removed, err = w.store.Prune(func(string) bool { return false })
	if err != nil || !slices.Equal(removed, []string{img.ID}) {
		t.Errorf("prune: %v, %v", removed, err)
	}
	if list, err := w.store.Ls(); err != nil || len(list) != 0 {
		t.Errorf("ls: %v, %v", list, err)
	}
}

func TestDamagedImagesAreNoImages(t *testing.T) {
	for name, spoil := range map[string]func(img Image) error{
		"no root":      func(img Image) error { return os.Remove(img.Root) },
		"no manifest":  func(img Image) error { return os.Remove(filepath.Join(img.Dir, manifestName)) },
		"cut manifest": func(img Image) error { return os.Truncate(filepath.Join(img.Dir, manifestName), 10) },
		"no lock":      func(img Image) error { return os.Remove(filepath.Join(img.Dir, lockName)) },
		"renamed": func(img Image) error {
			return os.Rename(img.Dir, filepath.Join(filepath.Dir(img.Dir), "0123456789abcdef"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img, err := w.ensure(t)
			if err != nil {
				t.Fatal(err)
			}
			makeWritable(w.store)
			for _, file := range []string{manifestName} {
				if err := os.Chmod(filepath.Join(img.Dir, file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := spoil(img); err != nil {
				t.Fatal(err)
			}
			if list, err := w.store.Ls(); err != nil || len(list) != 0 {
				t.Errorf("ls: %v, %v", list, err)
			}
		})
	}
}

func TestOverlayStandsOnItsImageAlone(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip(err)
	}
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "a,b: c") // a path that is hostile to option syntax
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := Image{Root: filepath.Join(dir, "root.raw")}
	secret := filepath.Join(dir, "secret")
	for _, path := range []string{base.Root, secret} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, RootSize); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(dir, "disk.qcow2")
	if err := CreateOverlay(ctx, disk, base, RootSize-1); err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("too small a disk: %v", err)
	}
	if err := CreateOverlay(ctx, disk, base, 20<<30); err != nil {
		t.Fatal(err)
	}
	if err := CheckOverlay(ctx, disk, base); err != nil {
		t.Error(err)
	}
	if err := CreateOverlay(ctx, disk, base, 20<<30); err == nil {
		t.Error("a second overlay replaced the first")
	}
	for name, args := range map[string][]string{
		"another file":   {"rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, disk},
		"another format": {"rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base.Root, disk},
		"a protocol":     {"rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd://127.0.0.1/x", disk},
		"none":           {"rebase", "-u", "-f", "qcow2", "-b", "", disk},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if err := CheckOverlay(ctx, disk, base); !errors.Is(err, ErrBacking) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
