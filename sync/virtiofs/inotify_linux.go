package virtiofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// inotify is the kernel's queue of what changes in folders. A library would let Go's poller wait for it, and each change
// would wake a thread, whether anybody asks or not: nearly all are the guest's own, and the server was woken twice
// for each file that the guest made. Here the queue wakes nobody but who waits.
type inotify struct {
	fd, bell int // the queue, and what ends a wait
	folders  map[int32]string
	buf      []byte
}

// change is a name in a folder that is watched.
type change struct {
	path   string
	folder bool
	came   bool // it was made there, or moved to there
}

// what is asked of the kernel: changes of names and contents, and nothing below a link.
const asked = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &inotify{fd: fd, bell: bell, folders: map[int32]string{}, buf: make([]byte, 64<<10)}, nil
}

// close is for after the last wait.
func (n *inotify) close() {
	unix.Close(n.fd)
	unix.Close(n.bell)
}

// end ends all waits from now on.
func (n *inotify) end() {
	one := [8]byte{1}
	unix.Write(n.bell, one[:]) //nolint:errcheck // a full counter rings too
}

// add watches the folder rel below root, which may be a link itself. One that was watched by another path is by this one.
func (n *inotify) add(root, rel string) error {
	wd, err := unix.InotifyAddWatch(n.fd, root+"/"+rel, asked)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	n.folders[int32(wd)] = filepath.Join(root, rel)
	return nil
}

// wait returns when something is in the queue; false at the end.
func (n *inotify) wait() bool {
	fds := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}, {Fd: int32(n.bell), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if fds[1].Revents != 0 || fds[0].Revents&^unix.POLLIN != 0 {
			return false
		}
		if fds[0].Revents != 0 {
			return true
		}
	}
}

// maxTakes bounds the reads at once: as many as it takes for the 16,384 changes that the kernel keeps, each with a long
// name. A guest may fill the queue as fast as it is emptied.
const maxTakes = 70

// take gives what is in the queue. What an overflow of the queue took is not told.
//
// A folder that moved away is watched no more, nor what is in it: what it is called now is told with where it came to.
func (n *inotify) take() (out []change) {
	var moved []string
	for range maxTakes {
		size, err := unix.Read(n.fd, n.buf)
		if err != nil {
			break // nothing is left
		}
		out, moved = n.parse(n.buf[:size], out, moved)
	}
	n.leave(moved)
	return out
}

// parse appends the changes that the kernel told of, and the folders that moved away.
func (n *inotify) parse(b []byte, out []change, moved []string) ([]change, []string) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:end], []byte{0})
		b = b[end:]
		folder, known := n.folders[wd]
		if mask&unix.IN_IGNORED != 0 {
			delete(n.folders, wd)
		}
		if !known || len(name) == 0 {
			continue
		}
		c := change{path: filepath.Join(folder, string(name)), folder: mask&unix.IN_ISDIR != 0, came: mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0}
		if c.folder && mask&unix.IN_MOVED_FROM != 0 {
			moved = append(moved, c.path)
		}
		out = append(out, c)
	}
	return out, moved
}

// leave watches folders, and those in them, no more.
func (n *inotify) leave(moved []string) {
	if len(moved) == 0 {
		return
	}
	gone := map[string]bool{}
	for _, path := range moved {
		gone[path] = true
	}
	for wd, path := range n.folders {
		for at := len(path); at > 0; at = strings.LastIndexByte(path[:at], '/') {
			if gone[path[:at]] {
				unix.InotifyRmWatch(n.fd, uint32(wd)) //nolint:errcheck // it may be gone already
				delete(n.folders, wd)
				break
			}
		}
	}
}
