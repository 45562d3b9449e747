package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// History is what happened to one export since a checkpoint.
type History struct {
	dir     string
	export  string
	entries map[string]*entry
	byInode map[uint64]State // the last that the guest left of a file
}

// entry is what is known of one path.
type entry struct {
	first    *version // at the checkpoint, nil if only mode and times were changed
	last     *version // the latest that was not the guest's: what undo puts back
	meta     *State   // mode and times at the checkpoint
	left     *State   // what the guest left, nil if the journal does not say
	metaLeft *State   // what the guest left of mode and times, where it changed those alone
	sameLast bool     // when it changed them last, last was what stood there
}

// version is a state whose content is kept, or is not and why.
type version struct {
	State
	checkpoint int
	data, lost string
	looks      State // how it looked when it was last seen: the guest may have changed mode and times
}

// Read gives the history of an export since a checkpoint, which is included; ErrNone if there is no such.
func Read(dir, export string, since int) (*History, error) {
	list, err := Checkpoints(dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(c Checkpoint) bool { return c.ID == since })
	if i < 0 {
		return nil, fmt.Errorf("%w: %d", ErrNone, since)
	}
	h := &History{dir: dir, export: export, entries: map[string]*entry{}, byInode: map[uint64]State{}}
	for _, c := range list[i:] {
		if c.Undo && c.ID != since {
			continue
		}
		err := readLog(filepath.Join(dir, name(c.ID)), func(r record) {
			if r.Export == export {
				h.add(c.ID, r)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return h, nil
}

// maxEntries bounds the paths that a reader holds.
const maxEntries = 8_000_000

func (h *History) add(checkpoint int, r record) {
	e := h.entries[string(r.Path)]
	if e == nil {
		if len(h.entries) >= maxEntries {
			return
		}
		e = &entry{}
		h.entries[string(r.Path)] = e
	}
	s := r.State
	switch r.Op {
	case opOld:
		e.old(&version{State: s, checkpoint: checkpoint, data: r.Data, lost: r.Lost, looks: s}, r.Guest)
	case opMeta:
		e.sameLast = e.last != nil && e.last.looks.same(s)
		if e.meta == nil && e.first == nil {
			e.meta = &s
		}
	case opLeft:
		e.left = &s
		if s.Kind == File {
			h.byInode[s.Ino] = s
		}
	case opMetaLeft:
		e.metaLeft = &s
		if e.sameLast {
			e.last.looks = s
		}
	}
}

func (e *entry) old(v *version, guests bool) {
	if e.first == nil {
		if e.meta != nil && e.meta.Kind == v.Kind { // the guest changed them before the content
			v.Mode, v.MTime = e.meta.Mode, e.meta.MTime
		}
		e.first, e.last = v, v
		return
	}
	// What the guest left at an earlier checkpoint is recorded again at a later one, and so is that nothing stands
	// there, or the same as before. Only what the host's user made meanwhile counts as a later version.
	if v.Kind != None && !guests && !e.guests(v.State) && !e.last.looks.same(v.State) {
		e.last = v
	}
}

// paths gives all of them that are one of want or below it; no want is all.
func (h *History) paths(want []string) []string {
	var out []string
	for p := range h.entries {
		if len(want) == 0 || slices.ContainsFunc(want, func(w string) bool { return p == w || strings.HasPrefix(p, w+"/") }) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// open opens the kept content of a version.
func (h *History) open(v *version) (*os.File, error) {
	if v.lost != "" || v.data == "" {
		return nil, fmt.Errorf("the old version was not kept: %s", v.lost)
	}
	if _, err := strconv.Atoi(v.data); err != nil {
		return nil, errors.New("the journal names no content")
	}
	return os.Open(filepath.Join(h.dir, name(v.checkpoint), dataDir, v.data))
}

// equal tells whether a kept version and a file have the same content.
func (h *History) equal(v *version, root *os.Root, path string) bool {
	kept, err := h.open(v)
	if err != nil {
		return false
	}
	defer kept.Close()
	now, err := openFile(root, path)
	if err != nil {
		return false
	}
	defer now.Close()
	return sameContent(kept, now)
}

func sameContent(a, b io.Reader) bool {
	const piece = 64 << 10
	x, y := make([]byte, piece), make([]byte, piece)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if n != m || string(x[:n]) != string(y[:m]) {
			return false
		}
		if errA != nil || errB != nil {
			return (errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)) && (errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF))
		}
	}
}
