package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/machine/store"
)

func newImage(a *app) *cobra.Command {
	return group("image", "Build and keep guest images", "  sbx image ls\n  sbx image build --refresh",
		newImageBuild(a), newImageLs(a), newImageInspect(a), newImageRm(a), newImagePrune(a))
}

func newImageBuild(a *app) *cobra.Command {
	var refresh bool
	cmd := &cobra.Command{
		Use: "build", Short: "Build the image of this folder's configuration",
		Long: "Builds the image that `sbx up` would use here, unless it is there already, and prints its ID.\n" +
			"--refresh looks for newer packages; sandboxes keep the image they were made on until `sbx reset`.",
		Example: "  sbx image build\n  sbx image build --refresh",
		Args:    maxArgs(0, "no arguments"),
	}
	cmd.Flags().BoolVar(&refresh, "refresh", false, "build anew from today's packages")
	settingFlags(cmd.Flags())
	cmd.RunE = interruptible(func(ctx context.Context, _ []string) error {
		config, err := a.loadConfig(givenSettings(cmd.Flags()))
		if err != nil {
			return err
		}
		if err := a.consent(ctx, config); err != nil {
			return err
		}
		progress := a.newProgress()
		defer progress.Close()
		img, err := a.ensureImage(ctx, config, refresh, progress)
		if err != nil {
			return err
		}
		progress.Close()
		_, err = fmt.Fprintln(a.Out, img.ID)
		return err
	})
	return cmd
}

// ensureImage returns the image that config asks for, built first if it must be.
func (a *app) ensureImage(ctx context.Context, config *configs.Config, refresh bool, progress image.Progress) (image.Image, error) {
	images, _, err := a.imageStore()
	if err != nil {
		return image.Image{}, err
	}
	recipe, err := recipeOf(config)
	if err != nil {
		return image.Image{}, err
	}
	build, err := a.builder(config)
	if err != nil {
		return image.Image{}, err
	}
	arch := config.Spec().Arch
	if refresh || !hasImage(images, recipe.Key(arch)) {
		// Before minutes of downloads: what could build it is there.
		if _, err := qemu.Probe(ctx, arch, a.getenv("SBX_ACCEL")); err != nil {
			return image.Image{}, err
		}
	}
	return images.Ensure(ctx, recipe, image.Options{
		Arch: arch, Mirror: config.Image.Mirror, Refresh: refresh, Progress: progress, Build: build,
		Host: image.ReadHost(ctx, "/", a.home(), a.Env),
	})
}

func hasImage(images *image.Store, key string) bool {
	list, err := images.Ls()
	return err == nil && slices.ContainsFunc(list, func(img image.Image) bool { return img.Key == key })
}

// recipeOf is the recipe that a configuration asks for.
func recipeOf(config *configs.Config) (image.Recipe, error) {
	recipe, err := image.LoadRecipe(config.Image.Base)
	if err != nil {
		return image.Recipe{}, err
	}
	return recipe.With(config.Image.Packages, config.Image.Agent, config.Image.Run), nil
}

func (a *app) imageStore() (*image.Store, *store.Store, error) {
	st, err := a.openStore()
	if err != nil {
		return nil, nil, err
	}
	images, err := image.Open(st.CacheDir())
	return images, st, err
}

func newImageLs(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the images", Example: "  sbx image ls\n  sbx image ls --json",
		Args: maxArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			images, users, err := a.openImages()
			if err != nil {
				return err
			}
			list, err := images.Ls()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, append([]image.Image{}, list...))
			}
			var rows [][]string
			for _, img := range list {
				rows = append(rows, []string{
					img.ID, img.Recipe, cmp.Or(img.Parent, "-"), img.Arch, img.Release, humanize.Time(img.Created), fmt.Sprint(len(users[img.ID])),
				})
			}
			return printTable(a.Out, []string{"ID", "RECIPE", "OVER", "ARCH", "KERNEL", "MADE", "SANDBOXES"}, rows)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// imageUsers lists the sandboxes whose disks stand on each image. It fails rather
// than leave one out: what nobody uses may be deleted.
func imageUsers(st *store.Store) (map[string][]string, error) {
	entries, err := st.List()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, entry := range entries {
		if entry.Err != nil {
			return nil, hintf(fmt.Errorf("which image sandbox %q uses cannot be read: %w", entry.Name, entry.Err),
				"delete what is left of it: sbx rm -f %s", entry.Name)
		}
		users[entry.Spec.Image] = append(users[entry.Spec.Image], entry.Name)
	}
	return users, nil
}

// openImages is the image store and who uses what is in it.
func (a *app) openImages() (*image.Store, map[string][]string, error) {
	images, st, err := a.imageStore()
	if err != nil {
		return nil, nil, err
	}
	users, err := imageUsers(st)
	return images, users, err
}

// inspected is what `sbx image inspect` prints.
type inspected struct {
	image.Image
	Dir       string     `json:"dir"`
	Sandboxes []string   `json:"sandboxes"`
	Lock      image.Lock `json:"lock"`
}

func newImageInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect ID", Short: "Print what an image is made of, as JSON",
		Example: "  sbx image inspect 0123456789abcdef",
		Args:    exactlyOne("an ID"),
		RunE: func(_ *cobra.Command, args []string) error {
			images, users, err := a.openImages()
			if err != nil {
				return err
			}
			img, err := images.Inspect(args[0])
			if err != nil {
				return noImage(err)
			}
			return printJSON(a.Out, inspected{
				Image: img, Dir: img.Dir, Sandboxes: append([]string{}, users[img.ID]...), Lock: img.Lock,
			})
		},
	}
}

func noImage(err error) error {
	if errors.Is(err, image.ErrNotFound) {
		return hintf(err, "see: sbx image ls")
	}
	return err
}

func newImageRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm ID…", Short: "Delete images that no sandbox uses",
		Example: "  sbx image rm 0123456789abcdef",
		Args:    atLeastOne("an ID"),
		RunE: func(_ *cobra.Command, args []string) error {
			images, users, err := a.openImages()
			if err != nil {
				return err
			}
			var faults []error
			for _, id := range args {
				if names := users[id]; len(names) > 0 {
					faults = append(faults, fmt.Errorf("image %s is in use by %q", id, names))
				} else if err := images.Rm(id); err != nil {
					faults = append(faults, noImage(err))
				}
			}
			return errors.Join(faults...)
		},
	}
}

func newImagePrune(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "Delete all images that no sandbox uses, and all downloads",
		Example: "  sbx image prune",
		Args:    maxArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			images, users, err := a.openImages()
			if err != nil {
				return err
			}
			removed, err := images.Prune(func(id string) bool { return len(users[id]) > 0 })
			for _, id := range removed {
				fmt.Fprintln(a.Out, id)
			}
			return err
		},
	}
}
