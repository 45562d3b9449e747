package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sbx-vm/sbx/image/deb"
	"github.com/sbx-vm/sbx/image/fetch"
	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// payload makes the tar that a builder works from, see boot.Plan.
type payload struct {
	lock    lockAndIndexes
	recipe  Recipe
	cache   *fetch.Client
	scratch string // folder for repacked packages, emptied as they are taken
	plan    boot.Plan
	texts   map[string][]byte // members that are not files of the cache, by name
}

func debName(name string) string { return "debs/" + name + ".deb" }

// writePayload writes the payload to path.
func writePayload(ctx context.Context, path string, p *payload, progress Progress) error {
	p.makePlan()
	if err := p.repackAll(ctx, progress); err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	if err := p.write(w); err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	return out.Close()
}

func (p *payload) makePlan() {
	p.plan = boot.Plan{Version: boot.PlanVersion, Arch: p.lock.Arch, Npm: "files/npm.tgz", Kernel: true}
	p.texts = map[string][]byte{}
	for _, name := range p.lock.Essential {
		p.plan.Essential = append(p.plan.Essential, debName(name))
	}
	for _, name := range p.lock.Mkfs {
		p.plan.Mkfs = append(p.plan.Mkfs, debName(name))
	}
	for _, locked := range p.lock.Packages {
		p.plan.Packages = append(p.plan.Packages, debName(locked.Name))
	}
	p.file("etc/apt/sources.list.d/debian.sources", sourcesText(p.lock.Suites))
	p.file("etc/apt/apt.conf.d/90sbx", aptConf)
	p.file("etc/gitconfig", gitConfig)
	p.file("usr/local/lib/node_modules/npm/npmrc", npmConf)
	for _, index := range p.lock.indexes {
		p.list(index.Repo.ListName("InRelease"), index.InRelease)
		p.list(index.Repo.ListName("main/binary-"+p.lock.Arch+"/Packages"), index.Raw)
	}
}

// aptConf leaves out what the guest's lists do not have. A refusal by the gateway
// is final: to wait before the next try only delays what the user is told.
const aptConf = `// Only English, so that no list is missing before the first apt-get update.
Acquire::Languages "none";
Acquire::Retries::Delay "false";
Acquire::EnableSrvRecords "false";
`

// npmConf is npm's built-in configuration: its own prefix, not that of Debian's
// node, and no minute of waiting for a name that is not allowed.
const npmConf = `prefix=/usr/local
fetch-retry-mintimeout=100
fetch-retry-maxtimeout=1000
update-notifier=false
fund=false
`

// gitConfig makes git init and clone work in the workspace: the template's sample
// hooks are what the guest may not write there.
const gitConfig = `[init]
	templateDir =
	defaultBranch = main
`

func (p *payload) file(target, text string) {
	source := "files/" + filepath.Base(target)
	p.texts[source] = []byte(text)
	p.plan.Files = append(p.plan.Files, boot.PlanFile{Path: target, Source: source, Mode: 0o644})
}

func (p *payload) list(name string, data []byte) {
	source := "files/lists/" + name
	p.texts[source] = data
	p.plan.Lists = append(p.plan.Lists, boot.PlanFile{Path: "var/lib/apt/lists/" + name, Source: source, Mode: 0o644})
}

// sourcesText is the guest's debian.sources: the archives that the image came from.
func sourcesText(suites []LockedSuite) string {
	var out strings.Builder
	var bases []string
	for _, s := range suites {
		if !slices.Contains(bases, s.Base) {
			bases = append(bases, s.Base)
		}
	}
	for i, base := range bases {
		if i > 0 {
			out.WriteByte('\n')
		}
		var names []string
		for _, s := range suites {
			if s.Base == base {
				names = append(names, s.Suite)
			}
		}
		fmt.Fprintf(&out, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
			base, strings.Join(names, " "))
	}
	return out.String()
}

// repackAll unpacks the compression of all packages, on all processors.
func (p *payload) repackAll(ctx context.Context, progress Progress) error {
	_, total := p.lock.files()
	progress.Phase("unpack packages", total)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	// The largest first: the last worker should not begin with it.
	order := slices.Clone(p.lock.Packages)
	slices.SortStableFunc(order, func(a, b LockedPackage) int { return int(b.Size - a.Size) })
	for _, locked := range order {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			defer progress.Add(locked.Size)
			if err := p.repack(locked); err != nil {
				return fmt.Errorf("unpack package %s: %w", locked.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (p *payload) repack(locked LockedPackage) error {
	out, err := os.Create(filepath.Join(p.scratch, locked.Name))
	if err != nil {
		return err
	}
	defer out.Close()
	if locked.SHA256 != "" {
		return errors.Join(deb.Repack(p.cache.Path(locked.file()), out), out.Close())
	}
	i := slices.IndexFunc(p.recipe.Stubs, func(s Stub) bool { return s.Name == locked.Name })
	if i < 0 {
		return errors.New("has no hash")
	}
	return errors.Join(p.recipe.Stubs[i].deb().Write(out), out.Close())
}

// write fills the tar in the order in which the builder reads it.
func (p *payload) write(w *tar.Writer) error {
	plan, err := json.MarshalIndent(p.plan, "", " ")
	if err != nil {
		return err
	}
	if err := addBytes(w, boot.PlanName, plan); err != nil {
		return err
	}
	done := map[string]bool{}
	for _, names := range [][]string{p.lock.Mkfs, p.lock.Essential, p.names()} {
		for _, name := range names {
			if done[name] {
				continue
			}
			done[name] = true
			path := filepath.Join(p.scratch, name)
			if err := addFile(w, debName(name), path); err != nil {
				return err
			}
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	if err := addFile(w, p.plan.Npm, p.cache.Path(p.lock.Npm.file())); err != nil {
		return err
	}
	for _, f := range slices.Concat(p.plan.Files, p.plan.Lists) {
		if err := addBytes(w, f.Source, p.texts[f.Source]); err != nil {
			return err
		}
	}
	return nil
}

func (p *payload) names() []string {
	var names []string
	for _, locked := range p.lock.Packages {
		names = append(names, locked.Name)
	}
	return names
}

func addBytes(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(tarHeader(name, int64(len(data)))); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

func addFile(w *tar.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(tarHeader(name, info.Size())); err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return err
}

// tarHeader has no time and no owner: the same content makes the same bytes.
func tarHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}
