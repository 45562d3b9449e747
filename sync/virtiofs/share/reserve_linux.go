package share

import (
	"errors"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// defaultReserve stays free where [Options] does not say how much, but no more than a tenth of the file system.
	defaultReserve = 1 << 30
	// slack is what a request takes beside its data: the blocks at both ends, an inode, a folder's block. It may be
	// some times as much: a quarter of the room is all that is let through unseen.
	slack = 8 << 10
	// lookAgain is after how long the file system is asked again: the host's own programs write too.
	lookAgain = 100 * time.Millisecond
	// retell is how often the log says that there is no room. A program that meets a full disk may try for hours.
	retell = 10 * time.Second
	// maxTake bounds what one request is counted as, so that no sum of them is too large for a number.
	maxTake = 1 << 53
)

// room is what the guest may still put on the file system of an export: what is free there, less the reserve.
//
// What requests may take is counted before they are carried out. As long as they took less than a quarter of the
// room since the last look, a moment ago, it costs no call of the system's.
type room struct {
	fd      int   // of an export
	reserve int64 // as in [Options]
	dense   bool  // the file system has no holes: what is left out takes room
	statfs  func(fd int, st *unix.Statfs_t) error
	began   time.Time

	left    atomic.Int64 // bytes that may be let through until the next look
	looked  atomic.Int64 // when the last one was, in nanoseconds since began
	flying  atomic.Int64 // bytes that were let through and may not be counted by the file system yet
	mu      sync.Mutex   // guards all below; one looks at a time
	told    time.Time
	leftOut int
}

// newRoom is nil where no reserve is kept.
func newRoom(fd int, reserve int64) (*room, error) {
	if reserve < 0 {
		return nil, nil
	}
	r := &room{fd: fd, reserve: reserve, statfs: unix.Fstatfs, began: time.Now()}
	st, err := r.stat()
	switch st.Type {
	case unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, hfsPlus:
		r.dense = true
	}
	return r, err
}

const hfsPlus = 0x482b // HFSPLUS_SUPER_MAGIC in the kernel's fs/hfsplus/hfsplus_raw.h

func (r *room) stat() (st unix.Statfs_t, err error) {
	err = retry(func() error { return r.statfs(r.fd, &st) })
	return st, err
}

// kept is the reserve on a file system. One that does not tell its size has none.
func (r *room) kept(st *unix.Statfs_t) int64 {
	switch {
	case st.Blocks == 0:
		return 0
	case r.reserve > 0:
		return r.reserve
	}
	return min(defaultReserve, inBytes(st.Blocks, st)/10)
}

// inBytes multiplies a number of blocks by their size.
func inBytes(blocks uint64, st *unix.Statfs_t) int64 {
	high, low := bits.Mul64(blocks, uint64(blockSize(st)))
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}

// blockSize is what blocks are counted in, see statvfs(3).
func blockSize(st *unix.Statfs_t) int64 {
	if st.Frsize > 0 {
		return st.Frsize
	}
	return max(st.Bsize, 1)
}

// take lets bytes through if they leave the reserve. The caller gives them back when they are written.
func (r *room) take(n int64) bool {
	r.flying.Add(n)
	if r.left.Add(-n) >= 0 && int64(time.Since(r.began))-r.looked.Load() < int64(lookAgain) {
		return true
	}
	if r.look() {
		return true
	}
	r.flying.Add(-n)
	return false
}

func (r *room) give(n int64) { r.flying.Add(-n) }

// look asks the file system. Until it has answered nothing is let through without asking too. What is in flight is read
// first: what is written meanwhile counts twice then, and not never.
func (r *room) look() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left.Store(0)
	flying := r.flying.Load()
	st, err := r.stat()
	if err != nil {
		return false
	}
	if st.Blocks == 0 { // it does not tell
		st.Bavail = math.MaxInt64
	}
	room := inBytes(st.Bavail, &st) - r.kept(&st) - flying
	if room < 0 {
		return false
	}
	r.left.Store(room / 4)
	r.looked.Store(int64(time.Since(r.began)))
	return true
}

// tell says whether the log is to have a line now, and how many refusals had none.
func (r *room) tell(now time.Time) (leftOut int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.told.IsZero() && now.Sub(r.told) < retell {
		r.leftOut++
		return 0, false
	}
	leftOut, r.leftOut, r.told = r.leftOut, 0, now
	return leftOut, true
}

// addRoom gives an export its room: the one of an export on the same device, if there is one.
func (t *Tree) addRoom(n *node) (err error) {
	if n.export.ReadOnly {
		return nil
	}
	for _, other := range t.exports {
		if other.key.dev == n.key.dev && other.export.room != nil {
			n.export.room = other.export.room
			return nil
		}
	}
	n.export.room, err = newRoom(n.fd, t.opts.Reserve)
	return err
}

// within runs f, which puts at most so many bytes on an export's file system, if they leave the reserve. The
// export is nil where f may not write.
func (t *Tree) within(e *export, n int64, f func() error) error {
	if e == nil || e.room == nil {
		return f()
	}
	n = min(max(n, 0), maxTake) + slack
	if !e.room.take(n) {
		t.tellFull(e)
		return unix.ENOSPC
	}
	defer e.room.give(n)
	return f()
}

// writing is changing within the room.
func (t *Tree) writing(h *handle, n int64, f func() error) error {
	return t.within(h.export, n, func() error { return t.changing(h, f) })
}

// making is within for what makes a name. One that stands there is said to stand there, as on a disk that is full.
func (t *Tree) making(dir *node, name string, f func() error) error {
	err := t.within(dir.export, 0, f)
	if errors.Is(err, unix.ENOSPC) && t.exists(dir, name) {
		return unix.EEXIST
	}
	return err
}

func (t *Tree) tellFull(e *export) {
	leftOut, ok := e.room.tell(time.Now())
	if !ok {
		return
	}
	st, err := e.room.stat()
	if err != nil {
		t.opts.Log.Warn("no room for the guest: the disk does not tell what is free", "export", e.Name, "error", err, "left_out", leftOut)
		return
	}
	t.opts.Log.Warn("no room for the guest: the rest of the disk is the host's",
		"export", e.Name, "free", inBytes(st.Bavail, &st), "reserve", e.room.kept(&st), "left_out", leftOut)
}

// reaching is how many bytes a write to a file takes: on a file system without holes also what lies before it.
func (h *handle) reaching(offset, n int64) int64 {
	if h.export == nil || h.export.room == nil || !h.export.room.dense {
		return n
	}
	st, err := stat(h.fd)
	if err != nil {
		return n
	}
	return n + min(max(offset-st.Size, 0), maxTake)
}

// resize sets the size of a file. Only a larger one takes room.
func (t *Tree) resize(e *export, fd int, size int64) error {
	set := func() error { return retry(func() error { return unix.Ftruncate(fd, size) }) }
	st, err := stat(fd)
	if err != nil {
		return err
	}
	if size <= st.Size {
		return set()
	}
	if e.room == nil || !e.room.dense {
		return t.within(e, 0, set)
	}
	return t.within(e, size-st.Size, set)
}

// withoutReserve takes the reserve out of what the guest is told to be free.
func (e *export) withoutReserve(st *unix.Statfs_t, out *fuse.StatfsOut) {
	if e.room == nil {
		return
	}
	kept := uint64((e.room.kept(st) + blockSize(st) - 1) / blockSize(st))
	out.Bfree -= min(kept, out.Bfree)
	out.Bavail -= min(kept, out.Bavail)
}
