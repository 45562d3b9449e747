package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
)

type cpOptions struct {
	app      *app
	src, dst copyEnd
}

// copyEnd is one side of a copy as typed. In the guest, name may be empty.
type copyEnd struct {
	guest bool
	name  string
	path  string
}

func newCp(a *app) *cobra.Command {
	o := cpOptions{app: a}
	return &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy files between host and guest",
		Long: "Copies a file or a folder; one side is NAME:PATH (or :PATH for this folder's sandbox), in the\n" +
			"guest. A relative PATH starts at the workspace. Like docker cp: into DST if that is a folder,\n" +
			"else to that name; SRC/. copies what is in the folder. Links are copied as links, owners are not kept.",
		Example: "  sbx cp report.pdf :/tmp/\n  sbx cp shop:/var/log/. ./logs",
		Args: func(_ *cobra.Command, args []string) (err error) {
			if len(args) != 2 {
				return usagef("cp takes SRC and DST, got %d arguments", len(args))
			}
			o.src, o.dst, err = parseEnds(args[0], args[1])
			return err
		},
		RunE: interruptible(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
}

func parseEnds(src, dst string) (copyEnd, copyEnd, error) {
	from, to := parseEnd(src), parseEnd(dst)
	switch {
	case from.path == "" || to.path == "":
		return from, to, usagef("cp: a path is missing in %q %q", src, dst)
	case from.guest == to.guest && from.guest:
		return from, to, usagef("cp: both sides are in a guest: copy to the host first")
	case from.guest == to.guest:
		return from, to, usagef("cp: one side must be NAME:PATH, in the guest: %q %q", src, dst)
	}
	return from, to, nil
}

// parseEnd reads NAME:PATH or a path of the host; ./a:b is always the host's.
func parseEnd(arg string) copyEnd {
	name, rest, found := strings.Cut(arg, ":")
	if !found || (name != "" && validName(name) != nil) {
		return copyEnd{path: arg}
	}
	return copyEnd{guest: true, name: name, path: rest}
}

func (o cpOptions) run(ctx context.Context) error {
	box, err := o.app.running(ctx, o.src.name+o.dst.name)
	if err != nil {
		return err
	}
	defer box.close()
	pipe, err := box.client.SFTP(ctx)
	if err != nil {
		return err
	}
	// The client does not know contexts: ending its stream ends what it waits for.
	defer context.AfterFunc(ctx, func() { pipe.Close() })()
	client, err := sftp.NewClientPipe(pipe, pipe, sftp.UseConcurrentWrites(true))
	if err != nil {
		return errors.Join(err, pipe.Close())
	}
	defer client.Close() //nolint:errcheck // each file was checked
	if o.src.guest {
		return o.fromGuest(ctx, box.spec, client)
	}
	return o.toGuest(ctx, box.spec, client)
}

func (o cpOptions) fromGuest(ctx context.Context, spec machine.Spec, client *sftp.Client) error {
	from, src := guestTree(client, spec, o.src.path)
	to, dst, err := openLocal(o.app.hostPath(o.dst.path), spec)
	if err != nil {
		return err
	}
	defer to.root.Close() //nolint:errcheck // a folder, only read
	info, err := from.Lstat(src)
	if err != nil {
		return err
	}
	dstInfo, err := statOrNil(to.root.Stat(dst))
	if err != nil {
		return err
	}
	dst, err = place(keepDots(o.src.path, src), keepDots(o.dst.path, dst), info.IsDir(), dstInfo)
	if err != nil {
		return err
	}
	return (&copier{from: from, to: to}).copy(ctx, src, dst, 0)
}

func (o cpOptions) toGuest(ctx context.Context, spec machine.Spec, client *sftp.Client) error {
	from, src, err := openLocal(o.app.hostPath(o.src.path), spec)
	if err != nil {
		return err
	}
	defer from.root.Close() //nolint:errcheck // a folder, only read
	to, dst := guestTree(client, spec, o.dst.path)
	info, err := from.Lstat(src)
	if err != nil {
		return err
	}
	dstInfo, err := statOrNil(client.Stat(to.path(dst)))
	if err != nil {
		return to.named(dst, err)
	}
	dst, err = place(keepDots(o.src.path, sourceName(from, src)), keepDots(o.dst.path, dst), info.IsDir(), dstInfo)
	if err != nil {
		return err
	}
	return (&copier{from: from, to: to}).copy(ctx, src, dst, 0)
}

// guestTree returns the guest's whole file system and p's name in it.
func guestTree(client *sftp.Client, spec machine.Spec, p string) (remoteTree, string) {
	if !path.IsAbs(p) {
		p = path.Join(spec.Workspace.Target, p)
	}
	name := strings.TrimPrefix(path.Clean(p), "/")
	if name == "" {
		name = "."
	}
	return remoteTree{client: client, base: "/"}, name
}

// hostPath makes p absolute; what matters at its end is kept by keepDots.
func (a *app) hostPath(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(a.Dir, p)
}

// keepDots puts back onto the cleaned name the end of what was typed that place
// reads: "/." for a folder's content, "/" for "must be a folder".
func keepDots(typed, name string) string {
	switch {
	case typed == "." || strings.HasSuffix(typed, "/."):
		return name + "/."
	case strings.HasSuffix(typed, "/"):
		return name + "/"
	default:
		return name
	}
}

// sourceName is the name a copy gets below a folder: that of the opened folder
// itself where the source is the root of its tree.
func sourceName(t localTree, name string) string {
	if name == "." {
		return filepath.Base(t.root.Name())
	}
	return name
}

// openLocal opens the folder that the absolute path p is looked up below, and
// returns p's name in it. For a path in a folder that the guest shares, that is the
// shared folder: a link that the guest put there must not lead the copy out of it.
// Everything else is the user's own: links on the way are followed.
func openLocal(p string, spec machine.Spec) (localTree, string, error) {
	for _, shared := range sharedFolders(spec) {
		rel, err := filepath.Rel(shared, p)
		if err == nil && filepath.IsLocal(rel) {
			root, err := os.OpenRoot(shared)
			return localTree{root}, filepath.ToSlash(rel), err
		}
	}
	if real, err := filepath.EvalSymlinks(p); err == nil {
		if info, err := os.Lstat(p); err == nil && info.IsDir() {
			p = real
		}
	}
	dir, base := filepath.Split(p)
	if base == "" {
		base = "."
	}
	root, err := os.OpenRoot(dir)
	return localTree{root}, base, err
}

func sharedFolders(spec machine.Spec) []string {
	folders := []string{spec.Project}
	for _, mount := range spec.Workspace.Mounts {
		folders = append(folders, mount.Source)
	}
	return folders
}

// statOrNil makes "nothing there" no error.
func statOrNil(info fs.FileInfo, err error) (fs.FileInfo, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is there
	}
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	return info, nil
}
