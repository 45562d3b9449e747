package initramfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

func contents(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := cpio.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
}

func TestBaseHoldsAgentAndModulesInOrder(t *testing.T) {
	var out bytes.Buffer
	if err := WriteBase(&out, []byte("agent"), []Module{{"virtio_mmio.ko.xz", []byte("m1")}, {"virtio_blk.ko.xz", []byte("odd")}}); err != nil {
		t.Fatal(err)
	}
	files := contents(t, out.Bytes())
	for name, want := range map[string]string{
		"sbx/init": "agent", "sbx/modules/virtio_blk.ko.xz": "odd", "sbx/modules/modules.order": "virtio_mmio.ko.xz\nvirtio_blk.ko.xz\n",
	} {
		if got := files[name]; got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if out.Len()%4 != 0 {
		t.Errorf("the archive has %d bytes: the next one must begin at a multiple of 4", out.Len())
	}
}

func TestBootDocumentComesBack(t *testing.T) {
	var out bytes.Buffer
	want := boot.Config{Version: 1, Hostname: "shop", Env: map[string]string{"A": "b\nc"}}
	if err := WriteBoot(&out, want); err != nil {
		t.Fatal(err)
	}
	var got boot.Config
	if err := json.Unmarshal([]byte(contents(t, out.Bytes())[strings.TrimPrefix(boot.Path, "/")]), &got); err != nil {
		t.Fatal(err)
	}
	if got.Hostname != want.Hostname || got.Env["A"] != want.Env["A"] {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestModulesWantsADiskDriver(t *testing.T) {
	dir := t.TempDir()
	if _, err := Modules(dir); err == nil {
		t.Error("a kernel without virtio_blk was accepted")
	}
	write := func(name string) {
		t.Helper()
		path := filepath.Join(dir, "kernel/drivers", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("block/virtio_blk.ko.xz")
	write("virtio/virtio_mmio.ko.xz")
	write("sound/soundcore.ko.xz")
	modules, err := Modules(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) != 2 || modules[0].Name != "virtio_mmio.ko.xz" || modules[1].Name != "virtio_blk.ko.xz" {
		t.Errorf("got %v, want mmio before blk and nothing else", modules)
	}
}
