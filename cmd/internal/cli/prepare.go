package cli

import (
	"context"
	"errors"
	"os"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/store"
)

// prepare makes sure of the image and writes the spec of the next start. A sandbox
// that has a disk keeps what the disk was made of.
func (a *app) prepare(ctx context.Context, p *plan, progress image.Progress) (machine.Spec, error) {
	if p.stored == nil || p.stored.Image == "" {
		img, err := a.ensureImage(ctx, p.config, false, progress)
		if err != nil {
			return machine.Spec{}, err
		}
		p.wanted.Image = img.ID
		return p.wanted, p.files.WriteSpec(p.wanted)
	}
	images, _, err := a.imageStore()
	if err != nil {
		return machine.Spec{}, err
	}
	if _, err := images.Inspect(p.stored.Image); err != nil {
		return machine.Spec{}, hintf(err, "sandbox %s was made on it: sbx reset makes a new disk on a new image", p.stored.Name)
	}
	for _, notice := range a.changesOf(p).notices(false) {
		a.warn(notice)
	}
	spec := nextSpec(*p.stored, p.wanted)
	return spec, p.files.WriteSpec(spec)
}

// changesOf compares the configuration with the sandbox that is there, its image
// by what it was made of: a newer package alone is no change.
func (a *app) changesOf(p *plan) changes {
	c := compareSpecs(*p.stored, p.wanted)
	images, _, err := a.imageStore()
	if err != nil || p.stored.Image == "" {
		return c
	}
	img, err := images.Inspect(p.stored.Image)
	if err != nil {
		return c
	}
	if recipe, err := recipeOf(p.config); err == nil && recipe.Key(img.Arch) != img.Key {
		c.reset = append(c.reset, "image")
	}
	return c
}

// warnRoot says once that root is more than sbx needs.
func (a *app) warnRoot() {
	if os.Geteuid() != 0 {
		return
	}
	if st, err := a.openStore(); err == nil {
		a.once(st, "root", "you are root: sbx needs no root; QEMU runs as an unprivileged user all the same")
	}
}

// once shows a notice the first time on this host.
func (a *app) once(st *store.Store, name, text string) {
	// A mark that cannot be made keeps nothing from the user.
	if first, err := a.first(st, name); first || err != nil {
		a.warn(text)
	}
}

// first says whether this is the first time of name on this host, and marks it.
func (*app) first(st *store.Store, name string) (bool, error) {
	file, err := os.OpenFile(st.NoticeFile(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, file.Close()
}
