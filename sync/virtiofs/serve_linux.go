package virtiofs

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/virtiofs/share"
	"github.com/sbx-vm/sbx/sync/virtiofs/vhostuser"
)

// Serve answers QEMU on conn until QEMU closes it (nil), ctx ends (its cause) or
// QEMU breaks the protocol. It takes conn over.
func Serve(ctx context.Context, conn *net.UnixConn, cfg Config, logger *slog.Logger) error {
	return serve(ctx, conn, cfg, logger, peer{})
}

// serve is Serve with somebody who asks for checkpoints and is told of changes meanwhile.
func serve(ctx context.Context, conn *net.UnixConn, cfg Config, logger *slog.Logger, with peer) error {
	kept, err := openJournal(cfg, logger)
	if err != nil {
		conn.Close()
		return fmt.Errorf("file server: %w", err)
	}
	kept.Lazily()
	defer kept.Close() //nolint:errcheck // what was recorded is written
	tree, err := open(cfg, kept, logger)
	if err != nil {
		conn.Close()
		return fmt.Errorf("file server: %w", err)
	}
	defer tree.Close()
	if with.listen != nil {
		go with.listen(func(c Command) Answer {
			tree.Settle() // what was before it
			if c.Flush {
				kept.Flush()
				return Answer{}
			}
			id, err := kept.Checkpoint(c.Checkpoint)
			if err != nil {
				return Answer{Error: err.Error()}
			}
			return Answer{ID: id}
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	if with.changed != nil {
		watching.Go(func() { watch(ctx, tree, logger, with.changed) })
	}
	defer watching.Wait()
	defer cancel()
	h := newHandler(tree)
	if err := vhostuser.Serve(ctx, conn, h, logger); err != nil {
		return fmt.Errorf("file server: %w", err)
	}
	return nil
}

const (
	// reserved descriptors: the rings', one or two of each request in flight, QEMU's messages'.
	reserved = 512
	// maxOpen bounds the memory that the guest's inodes take where the limit is none: some 150 MB.
	maxOpen = 1 << 19
)

// openJournal begins the journal, nil if none is wanted.
func openJournal(cfg Config, logger *slog.Logger) (*journal.Writer, error) {
	if cfg.Journal == "" {
		return nil, nil
	}
	return journal.Open(cfg.Journal, journal.Limits{}, cfg.Label, logger)
}

func newMask(cfg Config) (*guard.Mask, error) {
	mask, err := guard.NewMask(cfg.Mask)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(cfg.Mask)
	for _, e := range cfg.Exports {
		all = append(all, maskedToo(e.Path, mask)...)
	}
	return guard.NewMask(all)
}

func open(cfg Config, kept *journal.Writer, logger *slog.Logger) (*share.Tree, error) {
	protect := slices.Clone(cfg.Protect)
	for _, e := range cfg.Exports {
		if !e.ReadOnly {
			protect = append(protect, ledTo(e.Path)...)
		}
	}
	matcher, err := guard.New(protect)
	if err != nil {
		return nil, err
	}
	mask, err := newMask(cfg)
	if err != nil {
		return nil, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("limit of descriptors: %w", err)
	}
	o := share.Options{
		GuestUID: cfg.GuestUID, GuestGID: cfg.GuestGID, HostUID: uint32(os.Geteuid()), Guard: matcher, Mask: mask, Journal: kept, Log: logger, Reserve: cfg.Reserve,
		MaxOpen: int(min(limit.Cur-min(limit.Cur/2, reserved), maxOpen)),
	}
	for _, e := range cfg.Exports {
		o.Exports = append(o.Exports, share.Export{Name: e.Name, Path: e.Path, ReadOnly: e.ReadOnly})
	}
	return share.Open(o)
}

// prepareProcess sets what holds for the whole process: files get the mode that
// the guest asked for, the limit of descriptors is as high as it may be, what go-fuse
// says to Go's own log, a line for each bad request of the guest's, is not kept, and there
// are processors of Go's for more than the readers.
func prepareProcess() error {
	unix.Umask(0)
	log.SetOutput(io.Discard)
	// The readers of two rings keep a processor of Go's each while they wait for what comes at once.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 4))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	return nil
}

// Opcodes and sizes of FUSE's protocol (linux/fuse.h) that decide how a request is read.
const (
	opRead          = 15
	opWrite         = 16
	opFsync         = 20
	opInit          = 26
	opFsyncDir      = 30
	opDestroy       = 38
	opFallocate     = 43
	opCopyFileRange = 47
	opSyncFS        = 50

	inHeaderSize  = 40
	writeInSize   = inHeaderSize + 40
	outHeaderSize = 16
	// maxPlain bounds a request that is no write: names, one xattr of 64 KiB, or a batch of forgets.
	maxPlain = 128 << 10
	// maxWrite is the largest write or read that the guest is told to ask for: QEMU's rings of 128
	// descriptors carry half of it, rings of 512 all.
	maxWrite = 1 << 20
)

// handler turns one chain of the rings into one call of the file system.
type handler struct {
	tree *share.Tree
	// gate: INIT and DESTROY begin the file system anew and stand alone; all else shares.
	gate   sync.RWMutex
	server *fuse.ProtocolServer
	init   []byte // the guest's last INIT, which says what both sides agreed on
}

func newHandler(tree *share.Tree) *handler {
	options := &fuse.MountOptions{
		MaxWrite:      maxWrite,
		MaxReadAhead:  maxWrite,
		MaxBackground: 64,
		Logger:        log.New(io.Discard, "", 0), // a guest's bad requests are its own affair
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DIRECT_IO_ALLOW_MMAP, // the last for files that are only written
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_ALLOW_IDMAP | fuse.CAP_NO_OPEN_SUPPORT,
	}
	return &handler{tree: tree, server: fuse.NewProtocolServer(tree, options)}
}

// Handle implements [vhostuser.Device].
func (h *handler) Handle(in, out [][]byte) int {
	request, ok := private(in)
	if !ok {
		return 0
	}
	opcode := binary.NativeEndian.Uint32(request[0][4:])
	if opcode == opInit || opcode == opDestroy {
		h.gate.Lock()
		defer h.gate.Unlock()
		h.tree.Reset()
		h.init = nil
		if opcode == opInit {
			h.init = slices.Clone(request[0])
		}
	} else {
		h.gate.RLock()
		defer h.gate.RUnlock()
	}
	n, status := h.server.HandleRequest(request, out)
	if !status.Ok() {
		return refuse(request[0], out)
	}
	return n
}

// Slow implements [vhostuser.Device]: what waits for the host's disk, or copies without end; in a crowd what moves data. To wake
// a thread for a look at a name costs more than the look.
func (h *handler) Slow(in [][]byte, crowd bool) bool {
	switch opcodeOf(in) {
	case opFsync, opFsyncDir, opFallocate, opCopyFileRange, opSyncFS:
		return true
	case opRead, opWrite:
		return crowd
	}
	return false
}

// Flush implements [vhostuser.Device].
func (h *handler) Flush() { h.tree.FlushJournal() }

// deviceState is what goes through QEMU's pipe before the tree's: what the guest's INIT was.
type deviceState struct {
	Version int    `json:"version"`
	Init    []byte `json:"init,omitempty"`
}

// Save implements [vhostuser.Device].
func (h *handler) Save(w io.Writer) error {
	h.gate.Lock()
	defer h.gate.Unlock()
	if err := json.NewEncoder(w).Encode(deviceState{Version: 1, Init: h.init}); err != nil {
		return fmt.Errorf("save the device's state: %w", err)
	}
	return h.tree.Save(w)
}

// Load implements [vhostuser.Device]: it lets the protocol's side see the guest's INIT again.
func (h *handler) Load(r io.Reader) error {
	h.gate.Lock()
	defer h.gate.Unlock()
	head := bufio.NewReader(r)
	line, err := head.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("load the device's state: %w", err)
	}
	var s deviceState
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("load the device's state: %w", err)
	}
	if s.Version != 1 || len(s.Init) > maxPlain {
		return fmt.Errorf("load the device's state: version %d with an INIT of %d bytes", s.Version, len(s.Init))
	}
	h.tree.Reset()
	if h.init = s.Init; len(s.Init) >= inHeaderSize {
		answer := [][]byte{make([]byte, 4096)}
		if _, status := h.server.HandleRequest([][]byte{slices.Clone(s.Init)}, answer); !status.Ok() {
			return fmt.Errorf("load the device's state: INIT: %v", status)
		}
	}
	return h.tree.Load(head)
}

// private copies what is decided upon out of the guest's memory, where the guest could
// change it between check and use. Only a write's data stays where it is.
func private(in [][]byte) ([][]byte, bool) {
	total := 0
	for _, b := range in {
		total += len(b)
	}
	if total < inHeaderSize {
		return nil, false
	}
	size := total
	if opcodeOf(in) == opWrite {
		size = min(total, writeInSize)
	}
	if size > maxPlain {
		return nil, false
	}
	// One allocation for most: a write's header and the pieces of its data behind it, or the whole.
	c := &copied{}
	head := c.head[:]
	if size > len(head) {
		head = make([]byte, size)
	}
	c.parts[0] = head[:size]
	request := take(c.parts[:1], c.parts[0], in)
	if binary.NativeEndian.Uint32(head[4:]) != opWrite {
		return request, len(request) == 1 // else the guest made another request of it meanwhile
	}
	if size > writeInSize {
		return [][]byte{head[:writeInSize], head[writeInSize:size]}, true
	}
	return request, true
}

// copied is memory for a request.
type copied struct {
	head  [writeInSize]byte
	parts [4][]byte
}

// opcodeOf is what the guest asks for at this moment; it may change that. 0 is nothing.
func opcodeOf(in [][]byte) uint32 {
	if len(in) == 0 || len(in[0]) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint32(in[0][4:])
}

// take fills dst from the front of in and adds what is left of that to rest.
func take(rest [][]byte, dst []byte, in [][]byte) [][]byte {
	for _, b := range in {
		n := copy(dst, b)
		dst = dst[n:]
		if n < len(b) {
			rest = append(rest, b[n:])
		}
	}
	return rest
}

// refuse answers EIO to what could not be parsed, if there is room for it.
func refuse(request []byte, out [][]byte) int {
	if len(out) == 0 || len(out[0]) < outHeaderSize {
		return 0
	}
	reply := out[0][:outHeaderSize]
	status := -int32(unix.EIO)
	binary.NativeEndian.PutUint32(reply, outHeaderSize)
	binary.NativeEndian.PutUint32(reply[4:], uint32(status))
	copy(reply[8:], request[8:16])
	return outHeaderSize
}
