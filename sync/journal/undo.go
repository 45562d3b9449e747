package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"time"
)

// Report is what an undo did, paths below the export.
type Report struct {
	Restored  []string `json:"restored,omitempty"`  // as they were before the guest
	Removed   []string `json:"removed,omitempty"`   // that the guest had made
	Kept      []string `json:"kept,omitempty"`      // changed by the host's user since: left as they are
	Conflicts []string `json:"conflicts,omitempty"` // kept, and the version before the guest is beside it, see Beside
	Missing   []Lost   `json:"missing,omitempty"`   // cannot be put back
}

// Lost is a path that cannot be put back.
type Lost struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Beside is where undo puts an old version whose path the host's user has changed since.
func Beside(path string, checkpoint int) string {
	return path + ".sbx-undo-" + strconv.Itoa(checkpoint)
}

// Undoer takes back what a guest did.
type Undoer struct {
	History    *History
	Root       *os.Root // the export's folder on the host
	Checkpoint int      // that is gone back to
	// Skip tells of paths that no guest can have changed, so that a journal that speaks of them lies.
	Skip func(path string) bool
	// Keeper records what is replaced, so that the undo can be undone; nil keeps nothing.
	Keeper Keeper

	report Report
	made   map[string]bool // by the guest, to be removed by this undo
}

// Keeper is a [Writer] as an undo needs it.
type Keeper interface {
	KeepBefore(root *os.Root, path string)
	KeepAfter(root *os.Root, path string)
}

// UndoCheckpoint is the checkpoint that takes an undo back.
type UndoCheckpoint struct {
	ID int
	Keeper
	io.Closer
}

// Recording is a journal of one export whose changes are told by path, not seen by a file server. Checkpoint
// begins a new checkpoint and gives its number.
type Recording struct {
	Checkpoint func(label string) (int, error)
	Keeper
	io.Closer
}

func (u *Undoer) keep(p string) {
	if u.Keeper != nil {
		u.Keeper.KeepBefore(u.Root, p)
	}
}

func (u *Undoer) after(p string) {
	if u.Keeper != nil {
		u.Keeper.KeepAfter(u.Root, p)
	}
}

// Undo puts back all that is one of paths or below it; no paths is everything. What the host's user changed
// since stays. An error of one path does not keep the others from being put back.
func (u *Undoer) Undo(paths []string) Report {
	all := u.History.paths(paths)
	// Folders from the top, then what is in them; what the guest made goes last, from the bottom.
	var made, old []string
	u.made = map[string]bool{}
	for _, p := range all {
		if u.Skip != nil && u.Skip(p) {
			continue
		}
		if e := u.History.entries[p]; e.last != nil && e.last.Kind == None {
			made = append(made, p)
			u.made[p] = true
			continue
		}
		old = append(old, p)
	}
	for _, p := range old {
		u.unblock(p)
		u.restore(p)
	}
	slices.Reverse(made)
	for _, p := range made {
		u.remove(p)
	}
	for _, list := range [][]string{u.report.Restored, u.report.Removed, u.report.Kept, u.report.Conflicts} {
		slices.Sort(list)
	}
	return u.report
}

func (u *Undoer) missing(p string, err error) {
	u.report.Missing = append(u.report.Missing, Lost{p, err.Error()})
}

// unblock takes away what the guest made where a folder on the way to a path was: else the path would lead
// through a link of the guest's, or nowhere.
func (u *Undoer) unblock(p string) {
	for i, c := range p {
		if c != '/' || !u.made[p[:i]] {
			continue
		}
		if now, err := current(u.Root, p[:i]); err == nil && now.Kind != Dir {
			u.remove(p[:i])
		}
	}
}

// guests tells whether what stands at a path is as the guest left it.
func (e *entry) guests(now State) bool { return e.left != nil && e.left.same(now) }

// remove takes away what the guest made, if it still is what the guest made.
func (u *Undoer) remove(p string) {
	e := u.History.entries[p]
	now, err := current(u.Root, p)
	if err != nil {
		u.missing(p, err)
		return
	}
	switch {
	case now.Kind == None:
		return
	case !e.guests(now) && now.Kind != Dir:
		u.report.Kept = append(u.report.Kept, p)
		return
	}
	u.keep(p)
	if err := u.Root.Remove(p); err != nil {
		if now.Kind == Dir {
			u.report.Kept = append(u.report.Kept, p) // something of the user's is in it
			return
		}
		u.missing(p, err)
		return
	}
	u.after(p)
	u.report.Removed = append(u.report.Removed, p)
}

// restore puts the version before the guest back.
func (u *Undoer) restore(p string) {
	e := u.History.entries[p]
	now, err := current(u.Root, p)
	if err != nil {
		u.missing(p, err)
		return
	}
	if e.last == nil {
		u.restoreMeta(p, e, now)
		return
	}
	want := e.last
	switch {
	case want.Kind == Dir && now.Kind == Dir, want.Kind == Link && want.same(now):
		return
	case want.Kind == File && now.Kind == File && u.History.equal(want, u.Root, p):
		u.restoreMeta(p, &entry{meta: &want.State}, now)
		return
	case now.Kind != None && !e.guests(now):
		u.conflict(p, want)
		return
	}
	u.put(p, want, now)
}

// conflict leaves the user's version where it is and puts the older one beside it.
func (u *Undoer) conflict(p string, want *version) {
	if want.Kind != File {
		u.report.Kept = append(u.report.Kept, p)
		return
	}
	if err := u.write(Beside(p, u.Checkpoint), want); err != nil {
		u.missing(p, err)
		return
	}
	u.report.Conflicts = append(u.report.Conflicts, p)
}

// put replaces what the guest left by the version before.
func (u *Undoer) put(p string, want *version, now State) {
	var err error
	switch want.Kind {
	case Dir:
		if err = u.clear(p, now); err == nil {
			err = u.Root.MkdirAll(p, fs.FileMode(want.Mode&0o777|0o700))
		}
		if err == nil {
			err = u.Root.Chmod(p, fs.FileMode(want.Mode&0o777))
		}
	case Link:
		if err = u.clear(p, now); err == nil {
			err = u.parent(p)
		}
		if err == nil {
			err = u.Root.Symlink(string(want.Target), p)
		}
	case File:
		u.keep(p)
		if now.Kind == Dir && u.clear(p, now) != nil {
			u.conflict(p, want) // something of the user's is in it
			return
		}
		err = u.write(p, want)
	default:
		err = errors.New("is no file, folder or link, and was not kept")
	}
	if err != nil {
		u.missing(p, err)
		return
	}
	u.after(p)
	u.report.Restored = append(u.report.Restored, p)
}

// clear takes away what the guest put in the place of something of another kind.
func (u *Undoer) clear(p string, now State) error {
	if now.Kind == None {
		return nil
	}
	u.keep(p)
	if err := u.Root.Remove(p); err != nil {
		return fmt.Errorf("a folder of the guest's with your files in it stands there: %w", err)
	}
	return nil
}

func (u *Undoer) parent(p string) error {
	if dir := path.Dir(p); dir != "." {
		return u.Root.MkdirAll(dir, 0o755)
	}
	return nil
}

// write makes a file of a kept version: whole, beside its place, then there.
func (u *Undoer) write(p string, v *version) error {
	in, err := u.History.open(v)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := u.parent(p); err != nil {
		return err
	}
	temporary := p + ".sbx-undo"
	out, err := u.Root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(v.Mode&0o777|0o200))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(fs.FileMode(v.Mode&0o777)), out.Sync(), out.Close())
	if err == nil {
		err = u.Root.Chtimes(temporary, time.Time{}, time.Unix(0, v.MTime))
	}
	if err == nil {
		err = u.Root.Rename(temporary, p)
	}
	if err != nil {
		return errors.Join(err, u.Root.Remove(temporary))
	}
	return nil
}

// restoreMeta puts the mode back, where the content is the same.
func (u *Undoer) restoreMeta(p string, e *entry, now State) {
	if e.meta == nil || e.meta.Kind != now.Kind || now.Kind == Link || e.meta.Mode&0o777 == now.Mode&0o777 {
		return
	}
	if err := u.Root.Chmod(p, fs.FileMode(e.meta.Mode&0o777)); err != nil {
		u.missing(p, err)
		return
	}
	u.report.Restored = append(u.report.Restored, p)
}
