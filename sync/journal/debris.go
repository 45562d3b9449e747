package journal

import (
	"path"
	"strings"
)

// clearDebris removes what an undo that was killed left in a folder: copies of what is kept, and what the
// guest left. All else of that name is somebody's, and stays.
func (u *Undoer) clearDebris(dir string) {
	if u.cleared[dir] {
		return
	}
	u.cleared[dir] = true
	f, err := openFolder(u.Root, dir)
	if err != nil {
		return
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return
	}
	for _, name := range names {
		if strings.HasPrefix(name, temporary) {
			u.clearOne(dir, path.Join(dir, name))
		}
	}
}

func (u *Undoer) clearOne(dir, p string) {
	now, err := current(u.Root, p)
	if err != nil || now.Kind == Dir || now.Kind == None {
		return
	}
	for q, e := range u.History.entries {
		if path.Dir(q) != dir {
			continue
		}
		same := e.guests(now) || e.last != nil && e.last.Kind == File && now.Kind == File && now.Size == e.last.Size && u.History.equal(e.last, u.Root, p) ||
			e.last != nil && e.last.Kind == Link && e.last.same(now)
		if same {
			u.take(p, now) //nolint:errcheck // then it stays
			return
		}
	}
	u.report.Kept = append(u.report.Kept, p)
}
