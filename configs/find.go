package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// FileName is the project file's.
const FileName = "sbx.yaml"

// find gives the nearest folder at or above dir with a project file, or dir and
// no file. The paths are free of symbolic links.
func find(dir string) (project, file string, err error) {
	start, err := filepath.Abs(dir)
	if err == nil {
		start, err = filepath.EvalSymlinks(start)
	}
	if err != nil {
		return "", "", fmt.Errorf("look for %s: %w", FileName, err)
	}
	for at := start; ; at = filepath.Dir(at) {
		path := filepath.Join(at, FileName)
		_, err := os.Lstat(path)
		if err == nil {
			return at, path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("look for %s: %w", FileName, err)
		}
		if at == filepath.Dir(at) {
			return start, "", nil
		}
	}
}

// readProject reads a project file that was found by walking up. It must be a
// regular file of the user's or root's that nobody else can replace: on a shared
// machine a stranger may put one into /tmp (git's safe.directory, CVE-2022-24765).
func readProject(path string, env map[string]string) ([]byte, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if dir.Mode().Perm()&0o002 != 0 && dir.Mode()&fs.ModeSticky == 0 {
		return nil, fmt.Errorf("folder %q: anybody can write to it (mode %o), so its %s is not trusted", filepath.Dir(path), dir.Mode().Perm(), FileName)
	}
	src, info, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("file %q: anybody can write to it (mode %o), so it is not trusted", path, info.Mode().Perm())
	}
	if owner := ownerOf(info); !trustedOwner(owner, os.Geteuid(), env) {
		return nil, fmt.Errorf("file %q: belongs to user %d, not to you: copy it or `chown` it if you trust it", path, owner)
	}
	return src, nil
}

// trustedOwner tells whether a file of that owner is the user's word. Under sudo
// the user is who called it.
func trustedOwner(owner, uid int, env map[string]string) bool {
	if owner == 0 || owner == uid {
		return true
	}
	sudo, err := strconv.Atoi(env["SUDO_UID"])
	return uid == 0 && err == nil && owner == sudo
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// readUser reads the user's own file. Following a link is right there: people keep
// such files in a repository of their own.
func readUser(path string) ([]byte, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	src, _, err := readRegular(real)
	return src, err
}

// readRegular opens without following a link and without waiting on a FIFO, and
// reads one byte more than the bound, so that the parser can say so.
func readRegular(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, fmt.Errorf("file %q: is a symbolic link, not a regular file", path)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("file %q: is not a regular file", path)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return src, info, err
}
