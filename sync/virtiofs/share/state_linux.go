package share

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stateVersion of the JSON form below.
const stateVersion = 1

// state is what a guest relies on: the numbers that it was given, and what they stand for. Paths are bytes.
type state struct {
	Version int           `json:"version"`
	LastID  uint64        `json:"last_id"`
	Exports []savedExport `json:"exports"`
	Nodes   []savedNode   `json:"nodes,omitempty"`
	Handles []savedHandle `json:"handles,omitempty"`
	Devices []uint64      `json:"devices,omitempty"` // in the order of their index
}

type savedExport struct {
	Name string `json:"name"`
	ID   uint64 `json:"id"`
	Dev  uint64 `json:"dev"`
}

// place of a file: components below an export, and which file stood there.
type savedPlace struct {
	Export int      `json:"export"`
	Parts  [][]byte `json:"parts"`
	Dev    uint64   `json:"dev"`
	Ino    uint64   `json:"ino"`
}

type savedNode struct {
	savedPlace
	ID      uint64 `json:"id"`
	Lookups uint64 `json:"lookups"`
	Masked  bool   `json:"masked,omitempty"`
}

type savedHandle struct {
	savedPlace
	ID    uint64 `json:"id"`
	Flags int    `json:"flags"`
	Dir   bool   `json:"dir,omitempty"`
	Off   uint64 `json:"off,omitempty"`
	Root  bool   `json:"root,omitempty"` // the folder of exports
}

// Save writes what the guest knows. No other call may be in progress. Files without a name any more (open
// and removed) are left out: after Load they are stale.
func (t *Tree) Save(w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := state{Version: stateVersion, LastID: t.lastID, Devices: make([]uint64, len(t.devices))}
	for dev, index := range t.devices {
		s.Devices[index] = dev
	}
	for _, n := range t.exports {
		s.Exports = append(s.Exports, savedExport{n.export.Name, n.id, n.key.dev})
	}
	for _, id := range slices.Sorted(maps.Keys(t.nodes)) {
		n := t.nodes[id]
		if n.fd == n.export.fd {
			continue
		}
		if at, ok := t.saveAt(n.export, n.fd); ok {
			s.Nodes = append(s.Nodes, savedNode{at, id, n.lookups, n.masked.Load()})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.handles)) {
		if h, ok := t.saveHandle(id, t.handles[id]); ok {
			s.Handles = append(s.Handles, h)
		}
	}
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("save the share's state: %w", err)
	}
	return nil
}

// saveAt says where a descriptor's file is now, false when it has no name in the export.
func (t *Tree) saveAt(e *export, fd int) (at savedPlace, ok bool) {
	st, err := stat(fd)
	if err != nil || st.Nlink == 0 {
		return at, false
	}
	parts, err := t.place(&node{fd: fd, export: e})
	if err != nil {
		return at, false
	}
	at = savedPlace{Export: e.index, Dev: st.Dev, Ino: st.Ino}
	for _, p := range parts {
		at.Parts = append(at.Parts, []byte(p))
	}
	return at, true
}

func (t *Tree) saveHandle(id uint64, h *handle) (savedHandle, bool) {
	s := savedHandle{ID: id, Dir: h.dir != nil}
	if h.dir != nil {
		s.Off = h.dir.off
	}
	if h.fd < 0 {
		s.Root = true
		return s, true
	}
	flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
	if err != nil {
		return s, false
	}
	s.Flags = flags & openFlags &^ unix.O_TRUNC
	for _, n := range t.exports {
		if at, ok := t.saveAt(n.export, h.fd); ok {
			s.savedPlace = at
			return s, true
		}
	}
	return s, false
}

// Load makes the guest's numbers stand for the same files again, as far as these are still there: a file that
// is gone or is another one now is stale. It comes before any request.
func (t *Tree) Load(r io.Reader) error {
	var s state
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("load the share's state: %w", err)
	}
	if s.Version != stateVersion || !t.sameExports(s.Exports) || len(s.Devices) > 1<<16 {
		return fmt.Errorf("load the share's state: version %d of %d exports is not this server's", s.Version, len(s.Exports))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	devices := map[uint64]uint64{} // then to now
	for i, n := range t.exports {
		delete(t.nodes, n.id)
		n.id = s.Exports[i].ID
		t.put(n)
		devices[s.Exports[i].Dev] = n.key.dev
	}
	t.lastID = s.LastID
	for _, n := range s.Nodes {
		t.loadNode(n, devices)
	}
	for _, h := range s.Handles {
		t.loadHandle(h)
	}
	for index, dev := range s.Devices {
		if now, ok := devices[dev]; ok {
			dev = now
		}
		t.devices[dev] = uint64(index)
	}
	return nil
}

func (t *Tree) sameExports(saved []savedExport) bool {
	return slices.EqualFunc(saved, t.exports, func(s savedExport, n *node) bool { return s.Name == n.export.Name })
}

// reach opens the file at a saved place if it is still the same.
func (t *Tree) reach(at savedPlace) (*export, int, *unix.Stat_t, bool) {
	if at.Export < 0 || at.Export >= len(t.exports) {
		return nil, -1, nil, false
	}
	e := t.exports[at.Export].export
	parts := make([]string, len(at.Parts))
	for i, p := range at.Parts {
		if parts[i] = string(p); !validName(parts[i]) {
			return nil, -1, nil, false
		}
	}
	path := "."
	if len(parts) > 0 {
		path = strings.Join(parts, "/")
	}
	fd, err := beneath(e.fd, path, unix.O_PATH, 0)
	if err != nil {
		return nil, -1, nil, false
	}
	st, err := stat(fd)
	if err != nil || st.Ino != at.Ino {
		unix.Close(fd)
		return nil, -1, nil, false
	}
	return e, fd, st, true
}

// loadNode enters a node under its old number; the caller holds mu.
func (t *Tree) loadNode(s savedNode, devices map[uint64]uint64) {
	e, fd, st, ok := t.reach(s.savedPlace)
	if !ok {
		return
	}
	k := keyOf(e.index, st)
	if t.nodes[s.ID] != nil || t.byKey[k] != nil || s.ID > t.lastID || t.full() {
		unix.Close(fd)
		return
	}
	devices[s.Dev] = st.Dev
	n := &node{id: s.ID, key: k, fd: fd, mode: st.Mode, export: e, holders: 1, lookups: s.Lookups}
	n.masked.Store(s.Masked)
	t.put(n)
}

// loadHandle opens a file or folder again under its old number; the caller holds mu.
func (t *Tree) loadHandle(s savedHandle) {
	if t.handles[s.ID] != nil || s.ID > t.lastID || t.full() {
		return
	}
	h := &handle{fd: -1}
	if s.Dir {
		h.dir = &dirReader{fd: -1}
	}
	if !s.Root {
		if !t.reopenAt(h, s) {
			return
		}
		if s.Export >= 0 && s.Export < len(t.exports) && !s.Dir && writes(uint32(s.Flags)) {
			h.export = t.exports[s.Export].export
			t.holdNode(h)
		}
	} else if !s.Dir {
		return
	}
	if s.Dir {
		h.dir.fd = h.fd
		if h.fd >= 0 && h.dir.seek(s.Off) != nil {
			unix.Close(h.fd)
			return
		}
		h.dir.off = s.Off
	}
	h.holders.Store(1)
	t.handles[s.ID] = h
}

// holdNode gives a handle the node of its file, if the guest knows that; the caller holds mu.
func (t *Tree) holdNode(h *handle) {
	st, err := stat(h.fd)
	if err != nil {
		return
	}
	if n := t.byKey[keyOf(h.export.index, st)]; n != nil {
		n.holders++
		h.node = n
	}
}

// reopenAt opens what a handle stood for, by the rules that hold now: what became protected or masked since is
// not opened for writing.
func (t *Tree) reopenAt(h *handle, s savedHandle) bool {
	e, path, st, ok := t.reach(s.savedPlace)
	if !ok {
		return false
	}
	defer unix.Close(path)
	n := &node{fd: path, mode: st.Mode, export: e}
	if known := t.byKey[keyOf(e.index, st)]; known != nil {
		n.masked.Store(known.masked.Load())
	}
	flags := s.Flags & openFlags &^ unix.O_TRUNC
	if s.Dir {
		flags = unix.O_RDONLY | unix.O_DIRECTORY
	} else if writes(uint32(flags)) {
		if _, s := t.mayChange(n); s != 0 {
			return false
		}
	}
	if s.Dir {
		fd, err := t.reopen(n, flags)
		h.fd = fd
		return err == nil
	}
	return t.openRight(h, n, flags) == nil
}
