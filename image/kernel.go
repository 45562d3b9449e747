package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/sbx-vm/sbx/image/deb"
)

// Limits on what a kernel package may hold: Debian's has 4,000 modules of
// 25 MB together, the largest unpacks to 8 MB.
const (
	maxKernel  = 128 << 20
	maxModule  = 64 << 20
	maxModules = 1 << 30
)

const moduleSuffix = ".ko.xz"

// kernelTree is what is wanted of a kernel package, in memory.
type kernelTree struct {
	image   []byte
	release string
	modules map[string]module // by name with underscores
	builtin map[string]bool
	size    int64
}

type module struct {
	file string
	data []byte // xz
}

// extractKernel writes the kernel and the modules that names come to out of the
// .deb at path into dir, and returns the kernel's release.
func extractKernel(path, dir string, names []string) (string, error) {
	tree := kernelTree{modules: map[string]module{}, builtin: map[string]bool{}}
	if err := deb.Data(path, tree.read); err != nil {
		return "", fmt.Errorf("read kernel package: %w", err)
	}
	if tree.image == nil || tree.release == "" {
		return "", errors.New("kernel package holds no kernel")
	}
	order, err := tree.order(names)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, kernelName), tree.image, 0o444); err != nil {
		return "", err
	}
	return tree.release, tree.write(filepath.Join(dir, modulesName), order)
}

func (t *kernelTree) read(r io.Reader) error {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := t.take(path.Clean("/"+header.Name), archive); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

func (t *kernelTree) take(name string, body io.Reader) error {
	base := path.Base(name)
	switch {
	case strings.HasPrefix(name, "/boot/vmlinuz-"):
		t.release = strings.TrimPrefix(base, "vmlinuz-")
		var err error
		t.image, err = readLimited(body, maxKernel)
		return err
	case base == "modules.builtin":
		data, err := readLimited(body, maxModule)
		for line := range strings.Lines(string(data)) {
			t.builtin[moduleName(strings.TrimSpace(line))] = true
		}
		return err
	case strings.HasSuffix(base, moduleSuffix):
		data, err := readLimited(body, maxModule)
		if t.size += int64(len(data)); t.size > maxModules {
			return errors.New("modules are too large together")
		}
		t.modules[moduleName(base)] = module{file: base, data: data}
		return err
	}
	return nil
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// moduleName is a module's name as the kernel has it: file names may have
// dashes where the name has underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// order lists names and what they depend on, dependencies first. modules.dep is
// made on installation, so the dependencies come from the modules themselves.
func (t *kernelTree) order(names []string) ([]module, error) {
	var out []module
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if seen[name] || t.builtin[name] {
			return nil
		}
		seen[name] = true
		m, ok := t.modules[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %q", t.release, name)
		}
		deps, err := m.depends()
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, dep := range deps {
			if err := visit(dep); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// depends reads the module's own list (section .modinfo, entry "depends=").
func (m module) depends() ([]string, error) {
	unpacked, err := xz.NewReader(bytes.NewReader(m.data))
	if err != nil {
		return nil, err
	}
	object, err := readLimited(unpacked, maxModule)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

func (t *kernelTree) write(dir string, order []module) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index strings.Builder
	for _, m := range order {
		fmt.Fprintln(&index, m.file)
		if err := os.WriteFile(filepath.Join(dir, m.file), m.data, 0o444); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "modules.order"), []byte(index.String()), 0o444)
}
