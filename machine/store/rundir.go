package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxBase leaves room for a socket's name in the shortest limit of a path (104
// bytes on macOS). A user whose runtime folder is longer gets one in /tmp.
const maxBase = 60

// runDir is where sockets are. The user's runtime folder is private; a folder in
// /tmp is checked to be, because anybody could have made it first.
func runDir(getenv func(string) string) (string, error) {
	if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) && len(base) < maxBase {
		if info, err := os.Stat(base); err == nil && info.IsDir() {
			dir := filepath.Join(base, "sbx")
			return dir, private(dir)
		}
	}
	dir := "/tmp/sbx-" + strconv.Itoa(os.Getuid())
	return dir, private(dir)
}

// private makes a folder, or makes sure that one which is there is the user's own
// and nobody else's.
func private(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Getuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s is not a folder of yours with mode 0700: somebody else made it, delete it or set XDG_RUNTIME_DIR", dir)
	}
	return nil
}
