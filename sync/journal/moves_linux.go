package journal

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxTree bounds how many entries of a folder that moves are looked at; the rest cannot be taken back.
const maxTree = 100_000

// BeforeMove records a folder that is about to be moved, with all that is in it, and that nothing stood at
// its new place. The folder must still be where it was. For an error see Before.
func (w *Writer) BeforeMove(from, to Place, src Source) (err error) {
	w.walk(from, to, src, func(from, to Place, e walked) {
		if err != nil {
			return
		}
		err = w.before(from, e.src)
		w.beforeMade(to)
	})
	return err
}

// AfterMove notes that a folder was moved; src is its new place.
func (w *Writer) AfterMove(from, to Place, src Source) {
	w.walk(from, to, src, func(from, to Place, e walked) {
		w.noteGone(from)
		w.noteLeft(to, e.id, e.now)
	})
}

// AfterExchange notes that two places were exchanged, of which one at least is a folder's; a and b are what stands
// there now.
func (w *Writer) AfterExchange(at, to Place, a, b Source) {
	gone := func(_, was Place, _ walked) { w.noteGone(was) }
	left := func(is, _ Place, e walked) { w.noteLeft(is, e.id, e.now) }
	for _, f := range []func(from, to Place, e walked){gone, left} {
		w.walk(at, to, a, f)
		w.walk(to, at, b, f)
	}
}

// walked is what walk finds at a place.
type walked struct {
	src Source
	id  fileID
	now State
}

// walk calls f for a folder and all that is in it.
func (w *Writer) walk(from, to Place, src Source, f func(from, to Place, e walked)) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	left := maxTree
	w.walkOne(from, to, src, &left, f)
	if left <= 0 {
		w.log.Warn("a folder that was moved is too large to be recorded whole", "path", from.Path, "entries", maxTree)
	}
}

func (w *Writer) walkOne(from, to Place, src Source, left *int, f func(from, to Place, e walked)) {
	st, err := src.stat()
	if *left--; *left <= 0 || err != nil {
		return
	}
	now := stateOf(&st, src)
	f(from, to, walked{src, fileID{st.Dev, st.Ino}, now})
	if now.Kind != Dir {
		return
	}
	fd, err := unix.Openat(src.FD, src.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), "moved")
	defer dir.Close()
	names, err := dir.Readdirnames(maxTree)
	if err != nil && !errors.Is(err, io.EOF) {
		w.log.Warn("a folder that was moved cannot be read whole", "path", from.Path, "error", err)
	}
	for _, n := range names {
		w.walkOne(Place{from.Export, from.Path + "/" + n}, Place{to.Export, to.Path + "/" + n}, Source{FD: fd, Name: n}, left, f)
	}
}

// BeforeMeta records mode and times of what the guest is about to change those of. What the user made of the
// guest's work is kept whole: by its times it would be taken for the guest's afterwards. own is for AfterMeta; for an
// error see Before. st tells of it.
func (w *Writer) BeforeMeta(at Place, src Source, st *unix.Stat_t) (own bool, err error) {
	if w == nil {
		return false, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key, now := at.key(), stateOf(st, src)
	_, known := w.seen[key]
	l := w.left[fileID{st.Dev, st.Ino}]
	own = l.is(now)
	if known && !own && now.Kind != Dir || l != nil && !own {
		return true, w.before(at, src)
	}
	if was, ok := w.meta[key]; !known && (!ok || !was.is(now)) && len(w.meta) < maxPaths {
		w.meta[key] = seenOf(now)
		w.note(record{Op: opMeta, Export: at.Export, Path: []byte(at.Path), State: now})
	}
	return own || known, nil
}

// AfterMeta notes what the guest left of mode and times.
func (w *Writer) AfterMeta(at Place, src Source, own bool) {
	if w == nil {
		return
	}
	if own {
		w.After(at, src)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if st, err := src.stat(); err == nil {
		now := stateOf(&st, src)
		if _, ok := w.meta[at.key()]; ok {
			w.meta[at.key()] = seenOf(now)
		}
		w.note(record{Op: opMetaLeft, Export: at.Export, Path: []byte(at.Path), State: now})
	}
}
