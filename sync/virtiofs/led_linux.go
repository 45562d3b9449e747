package virtiofs

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// ledTo are the patterns that protect what git on the host is led to in an export by what its user set before: a
// repository beside the name .git, a folder of hooks, included configuration.
func ledTo(dir string) []string {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil // what cannot be opened is not served
	}
	defer root.Close()
	at, list := ".git", []string(nil)
	if info, err := root.Lstat(at); err == nil && !info.IsDir() {
		if at = guard.Inside(dir, "", pointsTo(root, info)); at == "" {
			return nil
		}
		list = guard.Repository(at)
	}
	return append(list, guard.Led(dir, at, small(root, at+"/config"))...)
}

// maskedToo are the patterns for what masked links of the user's at the top of an export lead to: .env is often one.
func maskedToo(dir string, mask *guard.Mask) (list []string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil
	}
	defer root.Close()
	folder, err := root.Open(".")
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, name := range names {
		if !mask.Masked([]string{name}) {
			continue
		}
		if info, err := root.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue // a guest's link must not take folders from the user
		}
		if target, err := root.Readlink(name); err == nil {
			if to := guard.Inside(dir, "", target); to != "" {
				list = append(list, guard.Exactly(to))
			}
		}
	}
	return list
}

// pointsTo is where a .git that is no folder leads.
func pointsTo(root *os.Root, info os.FileInfo) string {
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := root.Readlink(".git")
		if err != nil {
			return ""
		}
		return target
	}
	path, _ := strings.CutPrefix(string(small(root, ".git")), "gitdir: ")
	return strings.TrimRight(path, "\r\n")
}

// small reads a regular file of bounded size, nothing if it is none.
func small(root *os.Root, name string) []byte {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, guard.MaxConfig))
	if err != nil {
		return nil
	}
	return b
}
