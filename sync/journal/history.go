package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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
}

// entry is what is known of one path.
type entry struct {
	first *version // at the checkpoint, nil if only mode and times were changed
	last  *version // the latest that was not the guest's: what undo puts back
	meta  *State   // mode and times at the checkpoint
	left  *State   // what the guest left, nil if the journal does not say
}

// version is a state whose content is kept, or is not and why.
type version struct {
	State
	checkpoint int
	data, lost string
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
	h := &History{dir: dir, export: export, entries: map[string]*entry{}}
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

func (h *History) add(checkpoint int, r record) {
	e := h.entries[string(r.Path)]
	if e == nil {
		e = &entry{}
		h.entries[string(r.Path)] = e
	}
	switch r.Op {
	case opOld:
		v := &version{r.State, checkpoint, r.Data, r.Lost}
		if e.first == nil {
			e.first = v
		}
		// A later "nothing here" is the start of a later checkpoint, not somebody's removal: only what the
		// host's user made counts as a later version.
		if e.last == nil || v.Kind != None {
			e.last = v
		}
	case opMeta:
		if e.meta == nil && e.first == nil {
			s := r.State
			e.meta = &s
		}
	case opLeft:
		s := r.State
		e.left = &s
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

// current is what stands at a path now.
func current(root *os.Root, path string) (State, error) {
	info, err := root.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotDir):
		return State{Kind: None}, nil
	case err != nil:
		return State{}, err
	}
	s := State{Kind: Other, Mode: uint32(info.Mode().Perm()), Size: info.Size(), MTime: info.ModTime().UnixNano(), Ino: inode(info)}
	switch {
	case info.Mode().IsRegular():
		s.Kind = File
	case info.IsDir():
		s.Kind, s.Size = Dir, 0
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := root.Readlink(path)
		if err != nil {
			return State{}, err
		}
		s.Kind, s.Target = Link, []byte(target)
	}
	return s, nil
}

// equal tells whether a kept version and a file have the same content.
func (h *History) equal(v *version, root *os.Root, path string) bool {
	kept, err := h.open(v)
	if err != nil {
		return false
	}
	defer kept.Close()
	now, err := root.Open(path)
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
