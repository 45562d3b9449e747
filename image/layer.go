package image

import (
	"context"
	"fmt"
	"os"
	"time"
)

// copyTime bounds the copy of a root disk, of which some 1.3 GiB are used.
const copyTime = 10 * time.Minute

// buildLayer makes an image of below with the commands run in it. It runs under
// the layer's lock. Its ID has the time in it: what the commands fetch is theirs
// to choose, so the same commands need not make the same image twice.
func (s *Store) buildLayer(ctx context.Context, below Image, key string, run []string, o Options) (Image, error) {
	now := o.now().UTC()
	img := below
	img.ID, img.Key, img.Parent = digest(key, below.ID, now.UnixNano()), key, below.ID
	img.Created = now.Truncate(time.Second)
	return s.assemble(img, func(img Image) error {
		o.Progress.Phase("copy the image below", 0)
		if err := copyImage(ctx, below, img); err != nil {
			return fmt.Errorf("copy image %s: %w", below.ID, err)
		}
		o.Progress.Phase("run the provisioning steps", 0)
		if err := s.runBuild(ctx, img, BuildInput{Provision: run}, o); err != nil {
			return err
		}
		return img.seal()
	})
}

// copyImage copies the kernel, the modules and the disk, with its holes.
func copyImage(ctx context.Context, from, to Image) error {
	if err := os.CopyFS(to.Modules, os.DirFS(from.Modules)); err != nil {
		return err
	}
	kernel, err := os.ReadFile(from.Kernel)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to.Kernel, kernel, 0o444); err != nil {
		return err
	}
	return copyDisk(ctx, from.Root, to.Root)
}

// copyDisk copies a raw disk. Both formats are stated: a disk's content is the
// guest's word and must never be read as another format's header.
func copyDisk(ctx context.Context, from, to string) error {
	ctx, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	shared, err := shareBlocks(from, to)
	if shared || err != nil {
		return err
	}
	if _, err := qemuImg(ctx, "convert", "-f", "raw", "-O", "raw", "-W", "--", from, to); err != nil {
		return err
	}
	return os.Chmod(to, 0o600)
}
