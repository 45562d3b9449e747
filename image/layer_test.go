package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// layers ensures the test recipe with layers over it, on a build that appends what
// it ran to the disk.
func (w *world) layers(t *testing.T, layers ...[]string) (Image, error) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing; it copies disks: ", err)
	}
	base := w.options.Build
	o := w.options
	o.Build = func(ctx context.Context, in BuildInput) error {
		if in.Payload != "" {
			return base(ctx, in)
		}
		w.builds.Add(1)
		if w.fail != nil {
			return w.fail
		}
		root, err := os.OpenFile(in.Root, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		begin := make([]byte, 64)
		if _, err := root.ReadAt(begin, 0); err != nil {
			return err
		}
		_, err = root.WriteAt([]byte("+"+strings.Join(in.Provision, ",")), int64(len(strings.TrimRight(string(begin), "\x00"))))
		return err
	}
	return w.store.Ensure(t.Context(), testRecipe().With(nil, layers...), o)
}

func diskText(t *testing.T, img Image) string {
	t.Helper()
	root, err := os.Open(img.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	begin := make([]byte, 64)
	if _, err := root.ReadAt(begin, 0); err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(begin), "\x00")
}

func TestLayersAreSharedAndMadeOnce(t *testing.T) {
	w := newWorld(t)
	agent := []string{"install agent"}
	first, err := w.layers(t, agent, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if got := diskText(t, first); got != "a file system+install agent+a,b" {
		t.Errorf("disk has %q", got)
	}
	if info, err := os.Stat(first.Root); err != nil || info.Size() != RootSize || info.Mode().Perm() != 0o444 {
		t.Errorf("root is %v, %v", info, err)
	}
	second, err := w.layers(t, agent, []string{"c"})
	if err != nil {
		t.Fatal(err)
	}
	if n := w.builds.Load(); n != 4 || second.Parent != first.Parent || second.Parent == "" {
		t.Errorf("%d builds; layers are over %q and %q", n, first.Parent, second.Parent)
	}
	if got := diskText(t, second); got != "a file system+install agent+c" {
		t.Errorf("second disk has %q", got)
	}
	again, err := w.layers(t, agent, []string{"a", "b"})
	if err != nil || again.ID != first.ID || w.builds.Load() != 4 {
		t.Errorf("again: %s, %v, %d builds", again.ID, err, w.builds.Load())
	}
	w.checkClean(t, 4)
}

// What commands fetch has newer versions although the archive has none.
func TestRefreshMakesLayersAnew(t *testing.T) {
	w := newWorld(t)
	first, err := w.layers(t, []string{"x"})
	if err != nil {
		t.Fatal(err)
	}
	now := w.options.Now().Add(1)
	w.options.Now, w.options.Refresh = func() time.Time { return now }, true
	second, err := w.layers(t, []string{"x"})
	if err != nil || second.ID == first.ID || second.Parent != first.Parent || second.Key != first.Key {
		t.Errorf("first %+v, second %+v, %v", first, second, err)
	}
}

func TestLayerThatFailsLeavesTheOneBelow(t *testing.T) {
	w := newWorld(t)
	if _, err := w.layers(t); err != nil {
		t.Fatal(err)
	}
	w.fail = errors.New("npm said no")
	if _, err := w.layers(t, []string{"x"}); !errors.Is(err, w.fail) {
		t.Errorf("error is %v", err)
	}
	w.checkClean(t, 1)
}

func TestPruneKeepsWhatLayersAreOver(t *testing.T) {
	w := newWorld(t)
	used, err := w.layers(t, []string{"agent"})
	if err != nil {
		t.Fatal(err)
	}
	unused, err := w.layers(t, []string{"agent"}, []string{"project"})
	if err != nil {
		t.Fatal(err)
	}
	removed, err := w.store.Prune(func(id string) bool { return id == used.ID })
	if err != nil || len(removed) != 1 || removed[0] != unused.ID {
		t.Errorf("removed %v, %v", removed, err)
	}
	if _, err := w.store.Inspect(used.Parent); err != nil {
		t.Errorf("the base: %v", err)
	}
}
