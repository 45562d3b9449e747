package share

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
)

const (
	nobody  = 65534
	maxName = 255 // NAME_MAX; a guest's kernel passes longer ones on
	rootID  = fuse.FUSE_ROOT_ID
	// validity is how long the guest may believe what it was told.
	validity = time.Second
)

// Export is one folder of the host.
type Export struct {
	Name, Path string
	ReadOnly   bool
}

// Options of a tree.
type Options struct {
	Exports            []Export
	GuestUID, GuestGID uint32
	HostUID            uint32 // whose files become the guest user's
	MaxOpen            int    // descriptors that the guest's inodes and open files may hold together
	Guard              *guard.Matcher
	Mask               *guard.Mask
	Journal            *journal.Writer // nil keeps nothing
	Reserve            int64           // free bytes of the exports' file systems that the guest may not use; 0: the default, less: none
	Log                *slog.Logger
}

// Tree is a fuse.RawFileSystem. Its methods may be called at once from many
// goroutines, with any argument that a guest can think of.
type Tree struct {
	fuse.RawFileSystem // answers ENOSYS to what is not offered
	opts               Options
	self               int // /proc/self/fd
	started            time.Time
	refusals, links    limiter
	recent             recent
	shown              atomic.Int64 // bytes, see maxShown
	settling           sync.Mutex   // held by who tells the journal of what the guest left
	settled            time.Time    // when open files were; guarded by settling

	// names: held for reading by what changes or makes something at a place, for writing
	// by what moves places.
	names sync.RWMutex
	moves atomic.Uint64 // counts the guest's renames, which void what was known of places

	mu      sync.Mutex // guards all below
	nodes   map[uint64]*node
	byKey   map[key]*node
	handles map[uint64]*handle
	closed  map[*node]bool // held: files that the guest wrote to, and that are not settled yet
	devices map[uint64]uint64
	lastID  uint64
	exports []*node
}

type key struct {
	export   int
	dev, ino uint64
}

// node is an inode that the guest knows. The table counts as one holder.
type node struct {
	id      uint64
	key     key
	fd      int
	mode    uint32 // its type never changes
	export  *export
	lookups uint64 // guarded by Tree.mu
	holders int    // guarded by Tree.mu

	masked    atomic.Bool            // the guest sees no content of it
	own       atomic.Bool            // a lock that the guest made, see [Tree.own]
	placed    atomic.Pointer[placed] // of a folder
	rendering atomic.Pointer[rendering]
}

type export struct {
	Export
	index int
	fd    int
	root  atomic.Pointer[root]
	room  *room // nil where the guest may use all that is free
}

// Open opens the exports. The tree holds descriptors until Close.
func Open(o Options) (*Tree, error) {
	self, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", "/proc/self/fd", err)
	}
	t := &Tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), opts: o, self: self, started: time.Now(), lastID: rootID,
		nodes: map[uint64]*node{}, byKey: map[key]*node{}, handles: map[uint64]*handle{}, closed: map[*node]bool{}, devices: map[uint64]uint64{},
	}
	for i, e := range o.Exports {
		if err := t.addExport(i, e); err != nil {
			t.Close()
			return nil, fmt.Errorf("export %q of %q: %w", e.Name, e.Path, err)
		}
	}
	return t, nil
}

func (t *Tree) addExport(i int, e Export) error {
	if !validName(e.Name) {
		return errors.New("not a name")
	}
	if !filepath.IsAbs(e.Path) {
		return errors.New("not an absolute path")
	}
	for _, other := range t.exports {
		if other.export.Name == e.Name {
			return errors.New("name used twice")
		}
	}
	fd, err := unix.Open(e.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	t.lastID++
	n := &node{id: t.lastID, key: keyOf(i, st), fd: fd, mode: st.Mode, export: &export{Export: e, index: i, fd: fd}, holders: 1}
	if err := errors.Join(t.findRoot(n.export), t.addRoom(n)); err != nil {
		unix.Close(fd)
		return err
	}
	t.exports = append(t.exports, n)
	t.put(n)
	return nil
}

func keyOf(export int, st *unix.Stat_t) key { return key{export: export, dev: st.Dev, ino: st.Ino} }

// full tells whether the guest holds all that it may; the caller holds mu. What is left
// of the process's limit is for requests in flight and for QEMU's messages: without
// descriptors a reset could not be carried out.
func (t *Tree) full() bool { return len(t.nodes)+len(t.handles) >= t.opts.MaxOpen }

// put enters a node; the caller holds mu or is alone.
func (t *Tree) put(n *node) {
	t.nodes[n.id] = n
	t.byKey[n.key] = n
}

// Reset forgets what a guest that went away knew. No other call may be in progress.
func (t *Tree) Reset() {
	t.Settle()
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, h := range t.handles {
		delete(t.handles, id)
		if h.node != nil {
			t.letGo(h.node)
		}
		h.drop()
	}
	for _, n := range t.nodes {
		if n.export.fd != n.fd {
			t.forget(n)
		}
	}
}

// Close forgets all and closes the exports. No call may follow.
func (t *Tree) Close() {
	t.Reset()
	for _, n := range t.exports {
		unix.Close(n.fd)
	}
	unix.Close(t.self)
}

// forget takes a node out of the table; the caller holds mu.
func (t *Tree) forget(n *node) {
	delete(t.nodes, n.id)
	delete(t.byKey, n.key)
	t.letGo(n)
}

func (t *Tree) letGo(n *node) {
	if n.holders--; n.holders == 0 {
		unix.Close(n.fd)
	}
}

// node finds one and holds it; nil for the root and for numbers that the guest made up.
func (t *Tree) node(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n != nil {
		n.holders++
	}
	return n
}

func (t *Tree) release(n *node) {
	if n == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.letGo(n)
}

// inode is a number that is unique over the exports' devices and the same for as
// long as the server runs: the file's own on the first device.
func (t *Tree) inode(dev, ino uint64) uint64 {
	t.mu.Lock()
	index, ok := t.devices[dev]
	if !ok {
		index = uint64(len(t.devices))
		t.devices[dev] = index
	}
	t.mu.Unlock()
	if index == 0 {
		return ino
	}
	return ino ^ index<<48
}

// link is the name of a descriptor in /proc/self/fd, through which it can be opened anew.
func (n *node) link() string { return strconv.Itoa(n.fd) }

func (n *node) is(kind uint32) bool { return n.mode&unix.S_IFMT == kind }

// validName: one component and nothing else.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

func stat(fd int) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, err
	}
	return &st, nil
}

// retry repeats what a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// status is an error as the guest sees it.
func status(err error) fuse.Status {
	var errno unix.Errno
	switch {
	case err == nil:
		return fuse.OK
	case !errors.As(err, &errno):
		return fuse.EIO
	case errno == unix.EMFILE:
		errno = unix.ENFILE // the server's limit is, to the guest, the system's
	}
	return fuse.Status(errno)
}

// String implements fuse.RawFileSystem.
func (t *Tree) String() string { return "sbx" }
