//go:build unix

package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another sandbox mirrors the folder, or one above or below it.
var ErrLocked = errors.New("another sandbox already mirrors this folder, or one above or below it")

// Lock keeps others from mirroring the folder, by whatever path, and those above and
// below it: it is held alone, those above are held together with others. Close the files
// to give it up.
func (r *Root) Lock() (held []*os.File, err error) {
	if err := unix.Flock(int(r.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%q: %w", r.path, ErrLocked)
	}
	real, err := filepath.EvalSymlinks(r.path)
	if err != nil {
		return nil, err
	}
	for dir := real; dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		f, err := os.Open(dir)
		if err != nil {
			continue // one that we may not read is nobody's workspace that we can mirror
		}
		held = append(held, f)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			for _, f := range held {
				f.Close()
			}
			return nil, fmt.Errorf("%q: %w", dir, ErrLocked)
		}
	}
	return held, nil
}
