package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/image/debian"
	"github.com/sbx-vm/sbx/image/fetch"
	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// Lock is the exact list that a recipe came to. The same recipe and the same
// indexes make the same bytes of JSON.
type Lock struct {
	Version   int             `json:"version"`
	Recipe    string          `json:"recipe"`
	Arch      string          `json:"arch"`
	Suites    []LockedSuite   `json:"suites"`
	Essential []string        `json:"essential"` // names, in dependency order
	Mkfs      []string        `json:"mkfs"`
	Kernel    string          `json:"kernel"`   // name of the package with the kernel itself
	Packages  []LockedPackage `json:"packages"` // in dependency order
	Npm       LockedFile      `json:"npm"`
}

// LockedSuite is an index that the list was made from.
type LockedSuite struct {
	Base   string `json:"base"`
	Suite  string `json:"suite"`
	SHA256 string `json:"sha256"` // of the uncompressed Packages file
}

// LockedPackage is one .deb. A stub has no hash, it is made here.
type LockedPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"url,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Size    int64  `json:"size,omitempty"`
}

// LockedFile is a pinned download that is no package.
type LockedFile struct {
	URL    string `json:"url"`
	SHA512 string `json:"sha512"`
}

// ID names the image that the recipe and the lock make.
func (l Lock) ID(key string) string {
	return digest(formatVersion, boot.PlanVersion, key, l)
}

// lockAndIndexes is what resolution comes to: the list, and the verified
// indexes for the guest's apt.
type lockAndIndexes struct {
	Lock
	indexes []*debian.Index
}

// resolve reads the archive's indexes and locks the recipe to them.
func resolve(ctx context.Context, c *fetch.Client, r Recipe, o Options) (lockAndIndexes, error) {
	arch, err := debianArch(o.Arch)
	if err != nil {
		return lockAndIndexes{}, err
	}
	npm, err := o.npm(ctx, r.Npm)
	if err != nil {
		return lockAndIndexes{}, err
	}
	indexes, err := loadIndexes(ctx, c, r, o, arch)
	if err != nil {
		return lockAndIndexes{}, err
	}
	lock, err := lockTo(r, arch, indexes)
	lock.Npm = npm
	return lockAndIndexes{Lock: lock, indexes: indexes}, err
}

func loadIndexes(ctx context.Context, c *fetch.Client, r Recipe, o Options, arch string) ([]*debian.Index, error) {
	var indexes []*debian.Index
	for i, repo := range o.repos(r) {
		index, err := repo.Load(ctx, c, arch, o.now())
		if i > 0 && errors.Is(err, fetch.ErrNotFound) {
			o.Progress.Warn(fmt.Sprintf("%s has no %s, going on without", repo.Base, repo.Suite))
			continue
		}
		if errors.Is(err, fetch.ErrUnreachable) {
			return nil, fmt.Errorf("%w\nset image.mirror to a mirror that this machine reaches", err)
		}
		if err != nil {
			return nil, err
		}
		indexes = append(indexes, index)
	}
	return indexes, nil
}

// lockTo is pure: recipe and indexes in, list out.
func lockTo(r Recipe, arch string, indexes []*debian.Index) (Lock, error) {
	lock := Lock{Version: formatVersion, Recipe: r.Name, Arch: arch}
	var lists [][]debian.Package
	for _, index := range indexes {
		sum := sha256.Sum256(index.Raw)
		lock.Suites = append(lock.Suites, LockedSuite{Base: index.Repo.Base, Suite: index.Repo.Suite, SHA256: hex.EncodeToString(sum[:])})
		lists = append(lists, index.Packages)
	}
	lists = append(lists, stubPackages(r))
	universe, err := debian.NewUniverse(lists...)
	if err != nil {
		return Lock{}, err
	}
	essential, required := universe.Base()
	kernel, ok := r.Kernel[arch]
	if !ok {
		return Lock{}, fmt.Errorf("recipe %s has no kernel for %s", r.Name, arch)
	}
	// base-files has the links of the merged /usr, without which no program finds its loader.
	mkfs := []string{"base-files", "e2fsprogs"}
	roots := slices.Concat(essential, required, r.Packages, []string{kernel}, mkfs)
	for _, stub := range r.Stubs {
		roots = append(roots, stub.Name)
	}
	all, err := universe.Resolve(roots)
	if err != nil {
		return Lock{}, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	if lock.Essential, err = closure(universe, essential...); err != nil {
		return Lock{}, err
	}
	if lock.Mkfs, err = closure(universe, mkfs...); err != nil {
		return Lock{}, err
	}
	lock.add(all, kernel)
	if lock.Kernel == "" {
		return Lock{}, fmt.Errorf("package %s depends on no kernel", kernel)
	}
	return lock, nil
}

// add takes the list over and finds the package that the kernel's metapackage
// stands for.
func (l *Lock) add(all []*debian.Package, meta string) {
	for _, p := range all {
		l.Packages = append(l.Packages, LockedPackage{Name: p.Name, Version: p.Version, URL: p.URL, SHA256: p.SHA256, Size: p.Size})
		if p.Name != meta && strings.HasPrefix(p.Name, "linux-image-") {
			l.Kernel = p.Name
		}
	}
}

func closure(u *debian.Universe, names ...string) ([]string, error) {
	list, err := u.Resolve(names)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range list {
		out = append(out, p.Name)
	}
	return out, nil
}

func stubPackages(r Recipe) []debian.Package {
	var list []debian.Package
	for _, stub := range r.Stubs {
		list = append(list, debian.Package{Name: stub.Name, Version: "1", Architecture: "all", Provides: strings.Join(stub.Provides, ", ")})
	}
	return list
}

// files lists the downloads and their bytes in all.
func (l Lock) files() (files []fetch.File, total int64) {
	for _, p := range l.Packages {
		if p.SHA256 != "" {
			files = append(files, p.file())
			total += p.Size
		}
	}
	return append(files, l.Npm.file()), total
}

func (p LockedPackage) file() fetch.File {
	return fetch.File{URL: p.URL, SHA256: p.SHA256, Size: p.Size}
}

func (f LockedFile) file() fetch.File {
	return fetch.File{URL: f.URL, SHA512: f.SHA512}
}
