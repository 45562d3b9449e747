package journal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"github.com/sbx-vm/sbx/sync/guard"
)

// Change is a path that differs from what it was at the checkpoint.
type Change struct {
	Path string `json:"path"`
	// Status is A (made), D (gone), M (changed), T (of another kind), m (mode alone) or ? (it cannot be looked at).
	Status string `json:"status"`
	// ByHost tells that the host's user changed it after the guest did.
	ByHost bool   `json:"by_host,omitempty"`
	Lost   string `json:"lost,omitempty"` // why the old version was not kept
	Kind   Kind   `json:"kind,omitempty"` // of what stands there now
	// Executable tells of a file that it is executable, and was not or is another.
	Executable bool `json:"executable,omitempty"`
}

// maxPatch bounds the files that a patch is made of, in bytes.
const maxPatch = 1 << 20

// Changes lists what differs now from the checkpoint, by path.
func (h *History) Changes(root *os.Root) ([]Change, error) {
	return h.changes(root, func(string, State) bool { return true })
}

func (h *History) changes(root *os.Root, wanted func(path string, now State) bool) ([]Change, error) {
	var out []Change
	for _, p := range h.paths(nil) {
		e := h.entries[p]
		now, err := current(root, p)
		if err != nil {
			out = append(out, Change{Path: p, Status: "?", Lost: err.Error()})
			continue
		}
		if !wanted(p, now) {
			continue
		}
		if c, ok := h.change(root, p, e, now); ok {
			c.Kind, c.Executable = now.Kind, now.executable() && (c.Status != "m" || !e.before().executable())
			out = append(out, c)
		}
	}
	return out, nil
}

// Handed gives the reason why a tool of the host's user runs or obeys what the guest left at a path, "" if there is none.
func (c Change) Handed(h *guard.Handed, root *os.Root) string {
	if c.Status == "D" || c.Kind == None || c.Kind == Dir || c.Status == "m" && !c.Executable {
		return ""
	}
	return h.Why(guard.Changed{Path: c.Path, Executable: c.Executable, Link: c.Kind == Link}, func(path string) bool {
		_, err := root.Lstat(path)
		return err == nil
	})
}

// ChangesHanded lists the changes with such a reason. It compares the contents of no other.
func (h *History) ChangesHanded(root *os.Root, handed *guard.Handed) ([]Change, error) {
	changes, err := h.changes(root, func(path string, now State) bool {
		return Change{Path: path, Kind: now.Kind, Executable: now.executable()}.Handed(handed, root) != ""
	})
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Handed(handed, root) == "" }), err
}

// before is what stood there at the checkpoint, or its mode at least.
func (e *entry) before() State {
	if e.first == nil {
		return *e.meta
	}
	return e.first.State
}

func (s State) executable() bool { return s.Kind == File && s.Mode&0o111 != 0 }

func (h *History) change(root *os.Root, p string, e *entry, now State) (Change, bool) {
	c := Change{Path: p, ByHost: !h.guests(e, now)}
	if e.first == nil {
		c.Status, c.ByHost = "m", e.metaLeft == nil || e.metaLeft.Mode&0o777 != now.Mode&0o777
		return c, e.meta != nil && e.meta.Kind == now.Kind && e.meta.Mode&0o777 != now.Mode&0o777
	}
	c.Lost = e.first.lost
	was := e.first.State
	switch {
	case was.Kind == None && now.Kind == None:
		return c, false
	case was.Kind == None:
		c.Status = "A"
	case now.Kind == None:
		c.Status = "D"
	case was.Kind != now.Kind:
		c.Status = "T"
	case was.Kind == File && (c.Lost != "" || !h.equal(e.first, root, p)):
		c.Status = "M"
	case was.Kind == Link && string(was.Target) != string(now.Target):
		c.Status = "M"
	case was.Kind != Link && was.Mode&0o777 != now.Mode&0o777:
		c.Status = "m"
	default:
		return c, false
	}
	return c, true
}

// Patch writes the changes as a unified diff. Files that are no text, or large, are named alone.
func (h *History) Patch(w io.Writer, root *os.Root, changes []Change) error {
	for _, c := range changes {
		if err := h.patch(w, root, c); err != nil {
			return err
		}
	}
	return nil
}

func (h *History) patch(w io.Writer, root *os.Root, c Change) error {
	e := h.entries[c.Path]
	var before, after []byte
	oldName, newName := "a/"+c.Path, "b/"+c.Path
	var ok, okNow = true, true
	if e.first != nil && e.first.Kind == File {
		before, ok = h.text(e.first)
	} else {
		oldName = "/dev/null"
	}
	now, err := current(root, c.Path)
	if err != nil {
		_, err = fmt.Fprintf(w, "%q: %v\n", c.Path, err)
		return err
	}
	if now.Kind == File {
		after, okNow = textOf(root, c.Path)
	} else {
		newName = "/dev/null"
	}
	if oldName == newName || c.Status == "m" {
		return nil
	}
	if !ok || !okNow {
		return writeBinary(w, oldName, newName)
	}
	return writeUnified(w, oldName, newName, before, after)
}

// Unified writes the change of one file as Patch does; nil is a side that has no such file.
func Unified(w io.Writer, path string, before, after []byte) error {
	oldName, newName := "a/"+path, "b/"+path
	if before == nil {
		oldName = "/dev/null"
	}
	if after == nil {
		newName = "/dev/null"
	}
	if !isText(before) || !isText(after) {
		return writeBinary(w, oldName, newName)
	}
	return writeUnified(w, oldName, newName, before, after)
}

func writeUnified(w io.Writer, oldName, newName string, before, after []byte) error {
	_, err := io.WriteString(w, udiff.Unified(fmt.Sprintf("%q", oldName), fmt.Sprintf("%q", newName), string(before), string(after)))
	return err
}

func writeBinary(w io.Writer, oldName, newName string) error {
	_, err := fmt.Fprintf(w, "Binary or large files %q and %q differ\n", oldName, newName)
	return err
}

func (h *History) text(v *version) ([]byte, bool) {
	f, err := h.open(v)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	return readText(f)
}

func textOf(root *os.Root, path string) ([]byte, bool) {
	f, err := openFile(root, path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	return readText(f)
}

func readText(r io.Reader) ([]byte, bool) {
	b, err := io.ReadAll(io.LimitReader(r, maxPatch+1))
	return b, err == nil && isText(b)
}

func isText(b []byte) bool { return len(b) <= maxPatch && utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }
