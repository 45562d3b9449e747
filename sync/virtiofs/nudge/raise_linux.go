package nudge

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Serve raises the events of the changes that it reads, until the end of in. What fails has no watcher that
// could miss it: the file is gone again, or another's.
func Serve(in io.Reader) error {
	changes := json.NewDecoder(in)
	for {
		var c Change
		if err := changes.Decode(&c); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		raise(string(c.Path), c.Plain)
	}
}

// raise lets the kernel look at a file anew (the answer to a chmod has its attributes), then tells of a write
// to it. Of what is gone its folder is told of.
func raise(path string, plain bool) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Dir(path)
		plain = false
		info, err = os.Lstat(path)
	}
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return
	}
	if unix.Chmod(path, uint32(info.Mode().Perm())) != nil || !plain || !info.Mode().IsRegular() {
		return
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, Offset, Length) //nolint:errcheck // see Serve
}
