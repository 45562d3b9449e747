package share

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/journal"
)

// What follows tells the journal of a change, before it and after it. The caller holds names, so that places
// stay what they are in between.

func (t *Tree) at(e *export, parts []string) journal.Place {
	return journal.Place{Export: e.Name, Path: strings.Join(parts, "/")}
}

// entry is a name in a folder, for the journal.
type entry struct {
	at  journal.Place
	src journal.Source
	st  *unix.Stat_t // what fileOf saw
	ok  bool
}

func (t *Tree) entryOf(dir *node, name string) entry {
	if t.opts.Journal == nil {
		return entry{}
	}
	at, err := t.below(dir, name)
	if err != nil {
		return entry{}
	}
	return t.entryAt(dir, name, at)
}

// entryAt is entryOf for a name whose place is known.
func (t *Tree) entryAt(dir *node, name string, at spot) entry {
	if t.opts.Journal == nil {
		return entry{}
	}
	return entry{at: t.at(dir.export, at.parts), src: journal.Source{FD: dir.fd, Name: name}, ok: true}
}

// fileOf is a descriptor, for the journal; one without a name any more is nothing to keep.
func (t *Tree) fileOf(e *export, fd int) entry {
	if t.opts.Journal == nil {
		return entry{}
	}
	parts, err := t.place(&node{fd: fd, export: e})
	if err != nil {
		return entry{}
	}
	return t.fileAt(e, fd, parts)
}

// fileAt is fileOf for a descriptor whose place is known.
func (t *Tree) fileAt(e *export, fd int, parts []string) entry {
	if t.opts.Journal == nil || len(parts) == 0 {
		return entry{}
	}
	st, err := stat(fd)
	if err != nil || st.Nlink == 0 {
		return entry{}
	}
	parts = slices.Clone(parts)
	undelete(e.fd, parts, st)
	return entry{t.at(e, parts), journal.Source{FD: fd}, st, true}
}

// undelete gives the name back that a file had, of which only others are left: proc(5) adds a word to it.
func undelete(root int, parts []string, st *unix.Stat_t) {
	last := len(parts) - 1
	name, ok := strings.CutSuffix(parts[last], " (deleted)")
	if !ok {
		return
	}
	var is unix.Stat_t
	err := retry(func() error { return unix.Fstatat(root, strings.Join(parts, "/"), &is, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil || is.Ino != st.Ino || is.Dev != st.Dev {
		parts[last] = name
	}
}

// before is the journal's look before a change, which an error forbids: see [journal.Writer.Before].
func (t *Tree) before(e entry) error {
	if !e.ok {
		return nil
	}
	return t.opts.Journal.Before(e.at, e.src)
}

func (t *Tree) after(e entry) {
	if e.ok {
		t.note(e)
		t.opts.Journal.After(e.at, e.src)
	}
}

// made is both looks for what was made just now: see [journal.Writer.Made].
func (t *Tree) made(e entry, st *unix.Stat_t) {
	if e.ok {
		t.note(e)
		t.opts.Journal.Made(e.at, e.src, st)
	}
}

// afterGone is after for what was removed.
func (t *Tree) afterGone(e entry) {
	if e.ok {
		t.note(e)
		t.opts.Journal.AfterGone(e.at)
	}
}

func (t *Tree) note(e entry) { t.recent.add(e.at.Export+"\x00"+e.at.Path, time.Now()) }

// changing runs f, which changes the content of an open file, between two looks of the journal. What it left
// is written down when the file is closed.
func (t *Tree) changing(h *handle, f func() error) error {
	if t.opts.Journal == nil || h.export == nil {
		return f()
	}
	t.names.RLock()
	defer t.names.RUnlock()
	return t.changed(h, f)
}

// changed is changing for a caller that holds names.
//
// Most writes follow another one by the same handle. Such a one is known to the journal by the file alone, and its
// place was noted as recent a moment ago: it costs two looks at the file.
func (t *Tree) changed(h *handle, f func() error) error {
	now := time.Now()
	checkpoint, own := t.opts.Journal.Own(journal.Source{FD: h.fd}, &h.held)
	if !own || now.UnixNano()-h.noted.Load() > int64(renote) {
		e := t.fileOf(h.export, h.fd)
		if !e.ok {
			return f() // it has no name any more
		}
		if err := t.before(e); err != nil {
			return err
		}
		t.note(e)
		h.noted.Store(now.UnixNano())
	}
	err := f()
	t.opts.Journal.Wrote(journal.Source{FD: h.fd}, &h.held, checkpoint)
	h.dirty.Store(true)
	return err
}

// renote is after how long the place of a file that is written to is noted again. What moves it meanwhile notes
// the new one, for longer than that: recentFor.
const renote = time.Second

// settle writes down what the guest left in a file that it closes, or has open.
func (t *Tree) settle(h *handle) {
	if h.export != nil && h.dirty.Swap(false) {
		t.settleFile(h.export, h.fd)
	}
}

func (t *Tree) settleFile(of *export, fd int) {
	t.names.RLock()
	defer t.names.RUnlock()
	if e := t.fileOf(of, fd); e.ok {
		t.note(e)
		t.opts.Journal.Closed(e.at, e.st)
	}
}

// beforeRename records both places of a rename.
func (t *Tree) beforeRename(from *node, old string, to *node, name string) error {
	source, target := t.entryOf(from, old), t.entryOf(to, name)
	if !source.ok || !target.ok {
		return nil
	}
	if err := t.before(target); err != nil {
		return err
	}
	if kind, err := kindOf(from.fd, old); err == nil && kind == unix.S_IFDIR {
		return t.opts.Journal.BeforeMove(source.at, target.at, source.src)
	}
	return t.before(source)
}

// afterRename notes what a rename left at both places.
func (t *Tree) afterRename(from *node, old string, to *node, name string) {
	source, target := t.entryOf(from, old), t.entryOf(to, name)
	if !source.ok || !target.ok {
		return
	}
	if kind, err := kindOf(to.fd, name); err == nil && kind == unix.S_IFDIR {
		t.opts.Journal.AfterMove(source.at, target.at, target.src)
	}
	t.after(source)
	t.after(target)
}

// afterExchange is afterRename for two places that were exchanged.
func (t *Tree) afterExchange(from *node, old string, to *node, name string) {
	source, target := t.entryOf(from, old), t.entryOf(to, name)
	if !source.ok || !target.ok {
		return
	}
	t.opts.Journal.AfterExchange(source.at, target.at, source.src, target.src)
	t.after(source)
	t.after(target)
}

// exists tells whether a name stands for something. What is made by a request that fails then is not the guest's.
func (t *Tree) exists(dir *node, name string) bool {
	_, err := kindOf(dir.fd, name)
	return err == nil
}
