package journal

import "errors"

// restoreMode puts the mode back, where the content is the same, unless it is the user that changed it since.
func (u *Undoer) restoreMode(p string, e *entry, was *State, now State) {
	if was == nil || was.Kind != now.Kind || now.Kind == Link || now.Kind == Other {
		return
	}
	guests := e.left
	if e.last == nil {
		guests = e.metaLeft
	}
	mode, isNow := was.Mode&0o777, now.Mode&0o777
	ours := now.Kind == Dir && isNow == mode|0o700 // an undo that died
	users := guests != nil && guests.Kind == now.Kind && guests.Mode&0o777 != isNow && !ours
	back := mode != isNow && !users
	switch {
	case now.Kind == Dir && (isNow&0o700 != 0o700 || back && mode&0o700 != 0o700):
		u.openFolder(p, was, now, back)
	case back:
		if err := errors.Join(u.keep(p), chmod(u.Root, p, now.Kind, bitsOf(was))); err != nil {
			u.missing(p, err)
			return
		}
		u.after(p)
		u.report.Restored = append(u.report.Restored, p)
	}
}

// openFolder opens a folder for what is to be put back in it. Its mode is set at the end.
func (u *Undoer) openFolder(p string, was *State, now State, back bool) {
	final := bitsOf(&now)
	if back {
		final = bitsOf(was)
		u.report.Restored = append(u.report.Restored, p)
	}
	if err := errors.Join(u.keep(p), chmod(u.Root, p, Dir, bitsOf(&now)|0o700)); err != nil {
		u.missing(p, err)
		return
	}
	u.opened = append(u.opened, folderMode{p, final})
}

// folderBits of a mode are put back for a folder: also those that are dangerous for a file alone.
const folderBits = 0o3777

func bitsOf(s *State) uint32 {
	if s.Kind == Dir {
		return s.Mode & folderBits
	}
	return s.Mode & 0o777
}

// open lets a folder of the guest's be emptied that the guest closed.
func (u *Undoer) open(p string) {
	now, err := current(u.Root, p)
	if err == nil && now.Kind == Dir && now.Mode&0o700 != 0o700 && u.History.guests(u.History.entries[p], now) {
		if u.keep(p) == nil {
			chmod(u.Root, p, Dir, now.Mode|0o700) //nolint:errcheck // then what is in it says so
		}
	}
}
