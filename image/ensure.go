package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/sbx-vm/sbx/image/fetch"
)

// Ensure returns an image of the recipe and builds it first when there is none.
// With o.Refresh it builds one from today's archive, unless that is the same.
// Layers are made anew then, which brings newer versions of what their commands
// install. Of several callers, also in several processes, one builds and the
// others wait. A failed build leaves its console log, verified downloads and the
// layers below it, nothing else.
func (s *Store) Ensure(ctx context.Context, r Recipe, o Options) (Image, error) {
	if o.Progress == nil {
		o.Progress = silent{}
	}
	key := r.baseKey(o.Arch)
	img, err := s.ensure(ctx, key, "", o, func() (Image, error) { return s.build(ctx, r, key, o) })
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
	}
	for _, run := range r.Layers {
		below := img
		key := layerKey(below.Key, run)
		img, err = s.ensure(ctx, key, below.ID, o, func() (Image, error) { return s.buildLayer(ctx, below, key, run, o) })
		if err != nil {
			return Image{}, fmt.Errorf("build a layer over image %s: %w", below.ID, err)
		}
	}
	return img, nil
}

// ensure returns the image of that key and parent, made by build under the key's
// lock if it is not there or o.Refresh wants another.
func (s *Store) ensure(ctx context.Context, key, parent string, o Options, build func() (Image, error)) (Image, error) {
	if !o.Refresh {
		if img, ok := s.byKey(key, parent); ok {
			return img, nil
		}
	}
	unlock, err := s.lock(ctx, key, o.Progress)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if !o.Refresh {
		if img, ok := s.byKey(key, parent); ok {
			return img, nil // who held the lock built it
		}
	}
	return build()
}

// lock takes the recipe's build lock, which an ended process cannot leave behind.
func (s *Store) lock(ctx context.Context, key string, progress Progress) (func(), error) {
	if err := os.MkdirAll(s.locks(), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(s.locks(), key+".lock"))
	got, err := lock.TryLock()
	if err == nil && !got {
		progress.Phase("wait for another build of the same image", 0)
		_, err = lock.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("lock image build: %w", err)
	}
	return func() { lock.Unlock() }, nil //nolint:errcheck // closing the descriptor is what counts
}

// build runs under the recipe's lock.
func (s *Store) build(ctx context.Context, r Recipe, key string, o Options) (Image, error) {
	if o.Build == nil {
		return Image{}, errors.New("there is nothing to build it with")
	}
	client := &fetch.Client{HTTP: fetch.NewHTTP(), Dir: s.blobs(), Pause: s.pause}
	o.Progress.Phase("read package lists", 0)
	lock, err := resolve(ctx, client, r, o)
	if err != nil {
		return Image{}, err
	}
	id := lock.ID(key)
	if img, err := s.Inspect(id); err == nil {
		return img, nil
	}
	files, total := lock.files()
	o.Progress.Phase("download packages", total)
	client.Done = o.Progress.Add
	if err := client.All(ctx, files); err != nil {
		return Image{}, err
	}
	img := Image{ID: id, Recipe: r.Name, Key: key, Arch: o.Arch, Created: o.now().UTC().Truncate(time.Second), Lock: lock.Lock}
	return s.assemble(img, func(img Image) error { return s.fill(ctx, img, r, lock, client, o) })
}

// assemble makes the image in a temporary folder and gives it its name when whole.
func (s *Store) assemble(img Image, fill func(Image) error) (Image, error) {
	s.sweep(img.Key)
	dir, err := os.MkdirTemp(s.images(), tempPrefix+img.Key+"-")
	if err != nil {
		return Image{}, err
	}
	defer removeSealed(dir) //nolint:errcheck // renamed away when all went well; else sweep has another go
	if err := fill(img.in(dir)); err != nil {
		return Image{}, err
	}
	final := filepath.Join(s.images(), img.ID)
	if err := os.Rename(dir, final); err != nil {
		return Image{}, err
	}
	if err := os.Chmod(final, 0o555); err != nil { //nolint:gosec // read-only is the point
		return Image{}, err
	}
	return s.Inspect(img.ID)
}

func (s *Store) fill(ctx context.Context, img Image, r Recipe, lock lockAndIndexes, client *fetch.Client, o Options) error {
	scratch := filepath.Join(img.Dir, "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	path := filepath.Join(img.Dir, payloadName)
	p := &payload{lock: lock, recipe: r, cache: client, scratch: scratch}
	if err := writePayload(ctx, path, p, o.Progress); err != nil {
		return err
	}

	release, err := extractKernel(client.Path(lock.kernelFile()), img.Dir, r.Modules)
	if err != nil {
		return err
	}
	img.Release = release
	if err := emptyDisk(img.Root); err != nil {
		return err
	}
	o.Progress.Phase("build the file system", 0)
	if err := s.runBuild(ctx, img, BuildInput{Payload: path}, o); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(scratch), os.Remove(path)); err != nil {
		return err
	}
	return img.seal()
}

func (l Lock) kernelFile() fetch.File {
	for _, p := range l.Packages {
		if p.Name == l.Kernel {
			return p.file()
		}
	}
	return fetch.File{}
}

func emptyDisk(path string) error {
	root, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(root.Truncate(RootSize), root.Close())
}

// runBuild has a machine work on the image's disk; in has what differs.
func (s *Store) runBuild(ctx context.Context, img Image, in BuildInput, o Options) error {
	if o.Build == nil {
		return errors.New("there is nothing to build it with")
	}
	if err := os.MkdirAll(s.logs(), 0o755); err != nil {
		return err
	}
	in.Arch, in.Kernel, in.Modules, in.Root, in.Progress = img.Arch, img.Kernel, img.Modules, img.Root, o.Progress
	in.Log = filepath.Join(s.logs(), "build-"+img.Key+".log")
	if err := o.Build(ctx, in); err != nil {
		return fmt.Errorf("%w\nits console: %s", err, in.Log)
	}
	root, err := os.OpenFile(img.Root, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	// The builder's disk is not synced while it runs (cache=unsafe); its name must not come before its bytes.
	return root.Sync()
}

// seal writes what describes the image and makes its files read-only.
func (i Image) seal() error {
	for name, value := range map[string]any{lockName: i.Lock, manifestName: i} {
		data, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return err
		}
		if err := renameio.WriteFile(filepath.Join(i.Dir, name), append(data, '\n'), 0o444); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(i.Root, 0o444), os.Chmod(i.Modules, 0o555)) //nolint:gosec // a folder
}
