// Package initramfs writes what a guest boots from: one cpio archive with the
// guest agent and the few kernel modules that lead to the root disk, and after it
// a small one with the boot document. The kernel unpacks archives one after the
// other (kernel: Documentation/driver-api/early-userspace/buffer-format.rst), so
// the large part can be shared by all sandboxes of an image.
//
// Only what is needed to reach the root disk is here; everything else is
// loaded from the root file system.
package initramfs

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// Module is a kernel module's file, kept compressed as the distribution ships it.
type Module struct {
	Name string // file name, such as virtio_blk.ko.xz
	Data []byte
}

// needed are the modules between a Debian cloud kernel and its root disk, in load
// order; what a kernel has built in is not found as a file, which is fine.
func needed() []string {
	return []string{
		"virtio_mmio", "virtio_blk", "failover", "net_failover", "virtio_net", "rng-core", "virtio-rng", "virtio_balloon",
		"virtio_console", "virtiofs", "overlay",
	}
}

// Modules reads the needed modules from a kernel's modules folder
// (/usr/lib/modules/VERSION), in load order.
func Modules(dir string) ([]Module, error) {
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok {
			found[name] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	var modules []Module
	for _, name := range needed() {
		path, ok := found[name]
		if !ok {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		modules = append(modules, Module{Name: filepath.Base(path), Data: data})
	}
	if !slices.ContainsFunc(modules, func(m Module) bool { return strings.HasPrefix(m.Name, "virtio_blk.") }) {
		return nil, fmt.Errorf("no virtio_blk module below %q: not the kernel that this image was made for", dir)
	}
	return modules, nil
}

// WriteBase writes the shared archive.
func WriteBase(w io.Writer, agent []byte, modules []Module) error {
	a := newArchive(w)
	for _, dir := range []string{"dev", "proc", "sys", "run", "newroot"} {
		a.dir(dir)
	}
	// dev/console is in the archive that every kernel has built in.
	a.file(boot.InitPath, 0o755, agent)
	var order strings.Builder
	for _, m := range modules {
		a.file(filepath.Join(boot.ModulesDir, m.Name), 0o644, m.Data)
		order.WriteString(m.Name + "\n")
	}
	a.file(filepath.Join(boot.ModulesDir, "modules.order"), 0o644, []byte(order.String()))
	return a.close()
}

// WriteBoot writes the sandbox's own archive.
func WriteBoot(w io.Writer, config boot.Config) error {
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	a := newArchive(w)
	a.file(boot.Path, 0o600, data)
	return a.close()
}

// archive keeps the first error and makes each folder once.
type archive struct {
	w    *cpio.Writer
	made map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: cpio.NewWriter(w), made: map[string]bool{".": true, "/": true, "": true}}
}

func (a *archive) add(h *cpio.Header, data []byte) {
	if a.err != nil {
		return
	}
	h.Size = int64(len(data))
	if a.err = a.w.WriteHeader(h); a.err == nil {
		_, a.err = a.w.Write(data)
	}
}

func (a *archive) dir(name string) {
	if a.made[name] {
		return
	}
	a.dir(filepath.Dir(name))
	a.made[name] = true
	a.add(&cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755}, nil)
}

func (a *archive) file(path string, mode cpio.FileMode, data []byte) {
	name := strings.TrimPrefix(path, "/")
	a.dir(filepath.Dir(name))
	a.add(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode}, data)
}

func (a *archive) close() error {
	if a.err != nil {
		return fmt.Errorf("write the initramfs: %w", a.err)
	}
	return a.w.Close()
}
