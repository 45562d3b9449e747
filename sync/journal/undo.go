package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
)

// Report is what an undo did, paths below the export.
type Report struct {
	Restored  []string `json:"restored,omitempty"`  // as they were before the guest
	Removed   []string `json:"removed,omitempty"`   // that the guest had made
	Kept      []string `json:"kept,omitempty"`      // changed by the host's user since: left as they are
	Conflicts []string `json:"conflicts,omitempty"` // kept, and the version before the guest is beside it
	Missing   []Lost   `json:"missing,omitempty"`   // cannot be put back
	// Beside is where the version before the guest is, for each of the conflicts.
	Beside map[string]string `json:"beside,omitempty"`
}

// Lost is a path that cannot be put back.
type Lost struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Beside is where undo puts an old version whose path the host's user has changed since, unless something stands
// there already. Its name is no longer than file systems take.
func Beside(p string, checkpoint int) string {
	dir, name := path.Split(p)
	mark := ".sbx-undo-" + strconv.Itoa(checkpoint)
	return dir + name[:min(len(name), maxName-len(mark)-4)] + mark
}

// maxName is NAME_MAX, in bytes.
const maxName = 255

// Undoer takes back what a guest did. The guest may be at work meanwhile: what it swaps for a link is not followed,
// and what somebody changes between a look and a change is put back and counts as the user's.
type Undoer struct {
	History    *History
	Root       *os.Root // the export's folder on the host
	Checkpoint int      // that is gone back to
	// Skip tells of paths that no guest can have changed, so that a journal that speaks of them lies.
	Skip func(path string) bool
	// Vet gives the check of what a path may be put back to, nil for most: those that a guest may change as far as
	// a check of the content goes. What it refuses is put beside.
	Vet func(path string) func(now, kept []byte) error
	// Keeper records what is replaced, so that the undo can be undone; nil keeps nothing.
	Keeper Keeper

	report  Report
	opened  []folderMode // folders whose mode is set when all in them is done
	cleared map[string]bool
	fail    func(step string) error // tests die here
}

type folderMode struct {
	path string
	mode uint32
}

// Keeper is a [Writer] as an undo needs it.
type Keeper interface {
	// KeepBefore says by an error that the change may not be made: what stands there cannot be kept.
	KeepBefore(root *os.Root, path string) error
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

func (u *Undoer) keep(p string) error {
	if u.Keeper == nil {
		return nil
	}
	if err := u.Keeper.KeepBefore(u.Root, p); err != nil {
		return fmt.Errorf("what stands there cannot be kept: %w", err)
	}
	return nil
}

func (u *Undoer) after(p string) {
	if u.Keeper != nil {
		u.Keeper.KeepAfter(u.Root, p)
	}
}

// Undo puts back all that is one of paths or below it; no paths is everything. What the host's user changed
// since stays. An error of one path does not keep the others from being put back.
func (u *Undoer) Undo(paths []string) Report {
	u.report.Beside, u.cleared = map[string]string{}, map[string]bool{}
	// Folders from the top, then what is in them; what the guest made goes last, from the bottom.
	var made, old []string
	for _, p := range u.History.paths(paths) {
		switch {
		case u.Skip != nil && u.Skip(p):
			u.skipped(p)
		case u.History.entries[p].made():
			made = append(made, p)
		default:
			old = append(old, p)
		}
	}
	for _, p := range made { // while their content is what it was: the first name of the file is about to get another
		if now, err := current(u.Root, p); err == nil && now.Kind == File && now.links > 1 {
			u.remove(p)
		}
	}
	u.inOrder(old)
	for _, p := range old {
		u.clearDebris(path.Dir(p))
		u.unblock(p)
		u.restore(p)
	}
	for _, p := range made {
		u.open(p)
	}
	slices.Reverse(made)
	for _, p := range made {
		u.clearDebris(path.Dir(p))
		u.remove(p)
	}
	for _, f := range slices.Backward(u.opened) {
		if err := chmod(u.Root, f.path, Dir, f.mode); err != nil {
			u.missing(f.path, err)
			continue
		}
		u.after(f.path)
	}
	for _, list := range [][]string{u.report.Restored, u.report.Removed, u.report.Kept, u.report.Conflicts} {
		slices.Sort(list)
	}
	return u.report
}

// inOrder has folders come first, and then the names that the guest gave other files: as long as those have the
// content that they had.
func (u *Undoer) inOrder(paths []string) {
	ranks := map[string]int{}
	for _, p := range paths {
		want := u.History.entries[p].last
		if want != nil && want.Kind == Dir {
			continue
		}
		now, err := current(u.Root, p)
		if want == nil && now.Kind == Dir { // its mode alone
			continue
		}
		ranks[p] = 2
		if err == nil && now.Kind == File && now.links > 1 && want != nil && (want.Kind != File || want.Ino != now.Ino) {
			ranks[p] = 1
		}
	}
	slices.SortStableFunc(paths, func(a, b string) int { return ranks[a] - ranks[b] })
}

func (u *Undoer) missing(p string, err error) {
	u.report.Missing = append(u.report.Missing, Lost{p, err.Error()})
}

var errSkipped = errors.New("it is protected: undo does not write there")

// skipped names a path that is left alone, where that makes a difference.
func (u *Undoer) skipped(p string) {
	e := u.History.entries[p]
	now, err := current(u.Root, p)
	if _, differs := u.History.change(u.Root, p, e, now); err == nil && differs {
		u.missing(p, errSkipped)
	}
}

// unblock takes away what the guest put in the place of a folder on the way to a path: else the path leads nowhere.
func (u *Undoer) unblock(p string) {
	for i, c := range p {
		if c != '/' {
			continue
		}
		dir := p[:i]
		e := u.History.entries[dir]
		if e == nil || e.last == nil || u.Skip != nil && u.Skip(dir) {
			continue
		}
		if now, err := current(u.Root, dir); err != nil || now.Kind == Dir || !u.History.guests(e, now) {
			continue
		}
		switch e.last.Kind {
		case None:
			u.remove(dir)
		case Dir:
			u.restore(dir)
		}
	}
}

// guests tells whether what stands at a path is as the guest left it.
func (e *entry) guests(now State) bool { return e.left != nil && e.left.same(now) }

// guests is entry.guests, also for a file that the guest changed by another of its names.
func (h *History) guests(e *entry, now State) bool {
	return e.guests(now) || e.left != nil && e.left.Kind == File && now.Kind == File && e.left.Ino == now.Ino && h.byInode[now.Ino].same(now)
}

// made tells whether it is the guest that made what stands at the path.
func (e *entry) made() bool { return e.last != nil && e.last.Kind == None }

// remove takes away what the guest made, if it still is what the guest made.
func (u *Undoer) remove(p string) {
	e := u.History.entries[p]
	now, err := current(u.Root, p)
	switch {
	case err != nil:
		u.missing(p, err)
		return
	case now.Kind == None:
		return
	case !u.History.guests(e, now):
		if !slices.Contains(u.report.Kept, p) {
			u.report.Kept = append(u.report.Kept, p)
		}
		return
	}
	err = u.keep(p)
	if err == nil {
		err = u.take(p, now)
	}
	switch {
	case errors.Is(err, errTouched), err != nil && now.Kind == Dir: // something of the user's is in it
		u.report.Kept = append(u.report.Kept, p)
	case err != nil:
		u.missing(p, err)
	default:
		u.after(p)
		u.report.Removed = append(u.report.Removed, p)
	}
}

// restore puts the version before the guest back.
func (u *Undoer) restore(p string) {
	e := u.History.entries[p]
	now, err := current(u.Root, p)
	if err != nil {
		u.missing(p, err)
		return
	}
	want := e.last
	switch {
	case want == nil:
		u.restoreMode(p, e, e.meta, now)
	case want.Kind == Dir && now.Kind == Dir, want.Kind == File && now.Kind == File && u.History.equal(want, u.Root, p):
		u.restoreMode(p, e, &want.State, now)
	case want.Kind == Link && want.same(now):
	case now.Kind != None && !u.History.guests(e, now):
		u.conflict(p, want)
	default:
		u.put(p, want, now)
	}
}

// conflict leaves the user's version where it is and puts the older one beside it.
func (u *Undoer) conflict(p string, want *version) {
	if want.Kind != File {
		u.report.Kept = append(u.report.Kept, p)
		return
	}
	if err := u.beside(p, want); err != nil {
		u.missing(p, err)
		return
	}
	u.report.Conflicts = append(u.report.Conflicts, p)
}

// beside puts a version at a name of its own. One that is there already does.
func (u *Undoer) beside(p string, want *version) error {
	first := Beside(p, u.Checkpoint)
	for n := 1; n < 100; n++ {
		to := first
		if n > 1 {
			to += "-" + strconv.Itoa(n)
		}
		now, err := current(u.Root, to)
		if err != nil {
			return err
		}
		if now.Kind == None {
			if err = u.keep(to); err == nil {
				err = u.write(to, want, now)
			}
			if errors.Is(err, errTouched) {
				continue
			}
			u.after(to)
		} else if now.Kind != File || !u.History.equal(want, u.Root, to) {
			continue
		}
		u.report.Beside[p] = to
		return err
	}
	return fmt.Errorf("every name like %q is taken", first)
}

// put replaces what the guest left by the version before.
func (u *Undoer) put(p string, want *version, now State) {
	if want.Kind == Other {
		u.missing(p, errors.New("is no file, folder or link, and was not kept"))
		return
	}
	if err := u.vet(p, want, now); err != nil {
		if fault := u.beside(p, want); fault == nil {
			err = fmt.Errorf("%w; the version before is %q", err, u.report.Beside[p])
		}
		u.missing(p, fmt.Errorf("it may not be put back: %w", err))
		return
	}
	if now.Kind == Dir {
		u.empty(p)
	}
	err := u.keep(p)
	if err == nil {
		err = u.parents(p)
	}
	if err == nil && (now.Kind == Dir || want.Kind == Dir && now.Kind != None) {
		if err = u.take(p, now); err == nil {
			now = State{Kind: None}
		} else if now.Kind == Dir { // something of the user's is in it
			err = errTouched
		}
	}
	if err == nil {
		err = u.write(p, want, now)
	}
	switch {
	case errors.Is(err, errTouched):
		u.conflict(p, want)
	case err != nil:
		u.missing(p, err)
	default:
		u.after(p)
		u.report.Restored = append(u.report.Restored, p)
	}
}

// vet checks the content of what a check is for.
func (u *Undoer) vet(p string, want *version, now State) error {
	if u.Vet == nil {
		return nil
	}
	check := u.Vet(p)
	if check == nil {
		return nil
	}
	if want.Kind != File {
		return errSkipped
	}
	kept, err := u.History.open(want)
	if err != nil {
		return err
	}
	defer kept.Close()
	after, err := readVetted(kept)
	if err != nil {
		return err
	}
	var before []byte
	if now.Kind == File {
		f, err := openFile(u.Root, p)
		if err != nil {
			return err
		}
		defer f.Close()
		if before, err = readVetted(f); err != nil {
			return err
		}
	}
	return check(before, after)
}

// readVetted reads what a check is for: no git configuration is larger.
func readVetted(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPatch+1))
	if err == nil && len(b) > maxPatch {
		err = fmt.Errorf("more than %d bytes", maxPatch)
	}
	return b, err
}

// empty takes away what the guest made in a folder that it put in the place of something else.
func (u *Undoer) empty(p string) {
	u.clearDebris(p)
	all := u.History.paths([]string{p})
	for _, below := range all {
		u.open(below)
	}
	for _, below := range slices.Backward(all) {
		if below != p && u.History.entries[below].made() && (u.Skip == nil || !u.Skip(below)) {
			u.remove(below)
		}
	}
}

// parents makes the folders that a path is in, as they were.
func (u *Undoer) parents(p string) error {
	for i, c := range p {
		if c != '/' {
			continue
		}
		dir := p[:i]
		now, err := current(u.Root, dir)
		if err != nil {
			return err
		}
		if now.Kind == Dir {
			continue
		}
		if now.Kind != None {
			return fmt.Errorf("%q is no folder any more", dir)
		}
		was := &version{State: State{Kind: Dir, Mode: 0o755}}
		if e := u.History.entries[dir]; e != nil && e.last != nil && e.last.Kind == Dir {
			was = e.last
		}
		if err := errors.Join(u.keep(dir), u.write(dir, was, now)); err != nil {
			return err
		}
		u.after(dir)
	}
	return nil
}
