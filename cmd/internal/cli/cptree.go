package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Limits of one copy. A hostile guest can serve a folder without end; nobody's
// project is this deep or this large.
const (
	maxCopyDepth   = 128
	maxCopyEntries = 2_000_000
	// maxUnsized bounds files that say they are empty and are not (/proc).
	maxUnsized = 1 << 20
)

// tree is one side of a copy: a folder and what is below it. Paths are relative to
// it, slash separated; "." is the folder itself. An implementation must not leave
// the folder, whatever links stand in it, and its ReadDir must return only names of
// one component.
type tree interface {
	Lstat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.FileInfo, error)
	ReadLink(name string) (string, error)
	Open(name string) (io.ReadCloser, error)
	// Mkdir makes a folder that the owner can write to; one that is there is fine.
	Mkdir(name string) error
	// Symlink replaces what is at name, if that is not a folder.
	Symlink(target, name string) error
	// WriteFile replaces what is at name, if that is not a folder, with exactly size
	// bytes of r, all or nothing, and checks afterwards that they are there.
	WriteFile(name string, mode fs.FileMode, r io.Reader, size int64) error
	Chmod(name string, mode fs.FileMode) error
}

// copier copies between two trees, which it does not own.
type copier struct {
	from, to tree
	entries  int
}

// copy copies src of the one tree to dst of the other: files, folders with all in
// them, links as links. Sockets, pipes and devices are errors.
func (c *copier) copy(ctx context.Context, src, dst string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.entries++; c.entries > maxCopyEntries || depth > maxCopyDepth {
		return fmt.Errorf("%q: more than %d entries or %d levels: not copied further", src, maxCopyEntries, maxCopyDepth)
	}
	info, err := c.from.Lstat(src)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
		return c.file(src, dst, info)
	case fs.ModeDir:
		return c.folder(ctx, src, dst, info, depth)
	case fs.ModeSymlink:
		target, err := c.from.ReadLink(src)
		if err != nil {
			return err
		}
		return c.to.Symlink(target, dst)
	default:
		return fmt.Errorf("%q is neither file, folder nor link (%v): not copied", src, info.Mode().Type())
	}
}

func (c *copier) folder(ctx context.Context, src, dst string, info fs.FileInfo, depth int) error {
	if err := c.to.Mkdir(dst); err != nil {
		return err
	}
	entries, err := c.from.ReadDir(src)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := c.copy(ctx, path.Join(src, entry.Name()), path.Join(dst, entry.Name()), depth+1); err != nil {
			return err
		}
	}
	// Last: a folder that its owner cannot write to must be filled first.
	return c.to.Chmod(dst, info.Mode().Perm())
}

func (c *copier) file(src, dst string, info fs.FileInfo) error {
	r, err := c.from.Open(src)
	if err != nil {
		return err
	}
	defer r.Close()
	content, size, err := sized(src, r, info.Size())
	if err != nil {
		return err
	}
	return c.to.WriteFile(dst, info.Mode().Perm(), content, size)
}

// sized returns what to copy of a file that said it has size bytes. As tar does, a
// file that grows meanwhile is copied up to the size it had. One that says zero may
// be of the kernel's: its content is read first.
func sized(name string, r io.Reader, size int64) (io.Reader, int64, error) {
	if size > 0 {
		return io.LimitReader(r, size), size, nil
	}
	data, err := io.ReadAll(io.LimitReader(r, maxUnsized+1))
	if err != nil {
		return nil, 0, err
	}
	if len(data) > maxUnsized {
		return nil, 0, fmt.Errorf("%q says it is empty and has more than %d bytes: not copied", name, maxUnsized)
	}
	return strings.NewReader(string(data)), int64(len(data)), nil
}

// component checks a name that a server listed.
func component(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("the guest listed %q, which is no file name", name)
	}
	return nil
}

// errIsFolder is returned where a file would replace a folder.
func errIsFolder(name string) error {
	return fmt.Errorf("%q is a folder: not replaced by a file", name)
}

// place decides, as `docker cp` does, what a copy of src to dst is called: dst is
// the name to write below the tree to; contents says that src's content goes into
// dst, not src itself. dstInfo is nil if nothing is at dst.
func place(src, dst string, srcIsDir bool, dstInfo fs.FileInfo) (string, error) {
	trailing := strings.HasSuffix(dst, "/")
	contents := srcIsDir && (src == "." || src == "/" || strings.HasSuffix(src, "/."))
	switch {
	case dstInfo == nil && trailing && !srcIsDir:
		return "", fmt.Errorf("folder %q: %w", dst, fs.ErrNotExist)
	case dstInfo == nil || contents:
		return path.Clean(dst), nil
	case dstInfo.IsDir():
		return path.Join(dst, path.Base(src)), nil
	case srcIsDir || trailing:
		return "", fmt.Errorf("%q is not a folder", dst)
	default:
		return path.Clean(dst), nil
	}
}

// checkSize reports a file that is not as long as it should be.
func checkSize(name string, got, want int64, err error) error {
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%q: %d of %d bytes arrived", name, got, want)
	}
	return nil
}
