package journal

// Held is what a writer knows of a file that is open and written to again and again: the two looks at it, before each change
// and after it, search for nothing then. The holder has one for each file, whose zero value is ready. The writer guards it.
type Held struct{ left *left }

// Own tells whether an open file is as the guest left it, and recorded, in this checkpoint, so that Before has nothing to
// record. It gives the checkpoint's number, for Wrote.
func (w *Writer) Own(src Source, held *Held) (checkpoint int, own bool) {
	if w == nil {
		return 0, true
	}
	st, err := src.stat()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		return w.id, false
	}
	if held.left == nil {
		held.left = w.left[fileID{st.Dev, st.Ino}]
	}
	l := held.left
	own = l != nil && l.checkpoint == w.id &&
		st.Nlink == 1 && // else another of its names may be the one recorded
		l.is(stateOf(&st, src))
	return w.id, own
}

// Wrote is After for a file that is written to again and again: it is noted now, and told with Closed later. checkpoint is
// what Own gave before the change was recorded: another may have begun since.
func (w *Writer) Wrote(src Source, held *Held, checkpoint int) {
	if w == nil {
		return
	}
	st, err := src.stat()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		return
	}
	now := left{stateOf(&st, src), checkpoint}
	if held.left != nil {
		*held.left = now
		return
	}
	held.left = w.leave(fileID{st.Dev, st.Ino}, now)
}
