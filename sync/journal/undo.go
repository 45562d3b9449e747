package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
)

// Report is what an undo did, as paths below the root, sorted.
type Report struct {
	Checkpoint int      // the one that takes this undo back
	Restored   []string // as before the guest's changes
	Conflicts  []string // changed by the host's user since, or in the way: left as they are
	Missing    []string // what stood there was not kept
}

// change is what the guest did to one path since a checkpoint.
type change struct {
	name   string
	number int // the checkpoint that has the content
	before record
	left   State
	noted  bool // left is known
}

// collect finds what the guest changed since a checkpoint, by path. What is taken back to
// is the last version that was the host's user's, or where there is none the first.
func collect(dir *os.Root, checkpoint int) ([]*change, error) {
	numbers, err := list(dir)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(numbers, checkpoint) {
		return nil, fmt.Errorf("no checkpoint %d", checkpoint)
	}
	byName := map[string]*change{}
	for _, n := range numbers[slices.Index(numbers, checkpoint):] {
		err := readCheckpoint(dir, n, func(r record) {
			if len(r.Path) == 0 {
				return
			}
			c := byName[string(r.Path)]
			switch {
			case r.After && c != nil:
				c.left, c.noted = r.State, true
			case !r.After && (c == nil || !r.Own):
				byName[string(r.Path)] = &change{name: string(r.Path), number: n, before: r}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d: %w", n, err)
		}
	}
	all := make([]*change, 0, len(byName))
	for _, c := range byName {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *change) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// undoer carries one undo out.
type undoer struct {
	root   *os.Root
	j      *Journal
	report Report
	stuck  map[string]bool // is in the report already
}

// Undo takes back what the guest did below root since a checkpoint of the journal in dir,
// to all paths or to those named and what is below them. What the host's user changed
// since is left alone. What goes away is kept in a new checkpoint first, so that an undo
// can be undone. The guest must not change the same paths meanwhile.
func Undo(dir string, root *os.Root, checkpoint int, paths []string, limits Limits, log *slog.Logger) (Report, error) {
	j, err := Open(dir, limits, fmt.Sprintf("before undo to %d", checkpoint), log)
	if err != nil {
		return Report{}, err
	}
	u := &undoer{root: root, j: j, report: Report{Checkpoint: j.number}, stuck: map[string]bool{}}
	all, err := collect(j.dir, checkpoint)
	if err == nil {
		err = u.run(slices.DeleteFunc(all, func(c *change) bool { return !wanted(c.name, paths) }))
	}
	if err = errors.Join(err, j.Close()); err != nil {
		return u.report, fmt.Errorf("undo: %w", err)
	}
	return u.report, nil
}

func wanted(name string, paths []string) bool {
	return len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool {
		p = path.Clean(p)
		return p == "." || name == p || strings.HasPrefix(name, p+"/")
	})
}

// run removes what is in the way, the deepest first, and then restores, the deepest last.
func (u *undoer) run(all []*change) error {
	for _, c := range slices.Backward(all) {
		if err := u.clear(c); err != nil {
			return fmt.Errorf("%q: %w", c.name, err)
		}
	}
	for _, c := range all {
		if u.stuck[c.name] {
			continue
		}
		if err := u.restore(c); err != nil {
			return fmt.Errorf("%q: %w", c.name, err)
		}
	}
	return nil
}

func (u *undoer) conflict(c *change) error {
	u.report.Conflicts, u.stuck[c.name] = append(u.report.Conflicts, c.name), true
	return nil
}

// clear takes away what the guest left, if that is not what was before.
func (u *undoer) clear(c *change) error {
	now, err := look(u.root, c.name)
	switch {
	case err != nil:
		return u.conflict(c) // a link in the way leads out of the root
	case now.same(c.before.State) && (now.Kind != File || !c.noted):
		u.stuck[c.name] = true // as it was: nothing to do
		return nil
	case !c.noted || !now.same(c.left):
		return u.conflict(c)
	case c.before.State.Kind == Other || c.before.Lost != "":
		u.report.Missing, u.stuck[c.name] = append(u.report.Missing, c.name), true
		return nil
	case now.Kind == Absent || now.Kind == Folder && c.before.State.Kind == Folder:
		return nil
	}
	safe, err := u.j.before(u.root, c.name)
	if err != nil {
		return err
	}
	if !safe {
		return u.conflict(c)
	}
	if err := u.root.Remove(c.name); err != nil {
		return u.conflict(c) // a folder with files of the host's user
	}
	return u.j.After(u.root, c.name, true)
}

// restore puts back what was before, where nothing stands now.
func (u *undoer) restore(c *change) error {
	was := c.before.State
	if _, err := u.j.before(u.root, c.name); err != nil {
		return err
	}
	var err error
	if was.Kind != Absent {
		if dir := path.Dir(c.name); dir != "." {
			err = u.root.MkdirAll(dir, 0o755)
		}
		if err == nil {
			err = u.put(c)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		u.report.Missing = append(u.report.Missing, c.name)
		return nil
	}
	if err != nil {
		return u.conflict(c)
	}
	u.report.Restored = append(u.report.Restored, c.name)
	return u.j.After(u.root, c.name, true)
}

func (u *undoer) put(c *change) error {
	was := c.before.State
	switch was.Kind {
	case Link:
		return u.root.Symlink(string(was.Target), c.name)
	case Folder:
		if err := u.root.Mkdir(c.name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return u.root.Chmod(c.name, fs.FileMode(was.Mode))
	}
	in, err := u.j.dir.Open(objectName(c.number, c.before.Object))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := u.root.OpenFile(c.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(fs.FileMode(was.Mode)), out.Close())
}
