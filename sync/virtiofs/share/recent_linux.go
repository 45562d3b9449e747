package share

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// recentFor is how long a path counts as just changed by the guest.
	recentFor = 2 * time.Second
	maxRecent = 4096
)

// recent is what the guest changed a moment ago. Its zero value is ready. Two generations, each of recentFor: to
// forget costs nothing then.
type recent struct {
	mu           sync.Mutex
	paths, older map[string]time.Time
	began        time.Time
}

func (r *recent) add(key string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths == nil || now.Sub(r.began) > recentFor {
		r.paths, r.older, r.began = map[string]time.Time{}, r.paths, now
	}
	if len(r.paths) < maxRecent {
		r.paths[key] = now
	}
}

func (r *recent) has(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.paths[key]
	if !ok {
		at, ok = r.older[key]
	}
	return ok && now.Sub(at) <= recentFor
}

// Recent tells whether the guest changed a path of an export a moment ago.
func (t *Tree) Recent(export, path string) bool { return t.recent.has(export+"\x00"+path, time.Now()) }

// Plain tells whether the guest may open a path for writing as far as its name goes.
func (t *Tree) Plain(export, path string) bool {
	parts := strings.Split(path, "/")
	for _, n := range t.exports {
		if n.export.Name == export {
			return !n.export.ReadOnly && !t.opts.Guard.Protected(parts) && !t.opts.Mask.Masked(parts)
		}
	}
	return false
}

// Still opens a folder of an export and calls f while the guest can neither move nor make a name: what f reaches by the
// path is that folder. The caller closes it.
func (t *Tree) Still(export, path string, f func() error) (*os.File, error) {
	i := slices.IndexFunc(t.exports, func(n *node) bool { return n.export.Name == export })
	if i < 0 {
		return nil, unix.ENOENT
	}
	t.names.Lock()
	defer t.names.Unlock()
	fd, err := beneath(t.exports[i].fd, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	folder := os.NewFile(uintptr(fd), path)
	if err := f(); err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// Roots gives the writable exports' folders, by the exports' names, as paths that need no right to the folders above.
func (t *Tree) Roots() map[string]string {
	out := map[string]string{}
	for _, n := range t.exports {
		if !n.export.ReadOnly {
			out[n.export.Name] = "/proc/self/fd/" + strconv.Itoa(n.fd)
		}
	}
	return out
}
