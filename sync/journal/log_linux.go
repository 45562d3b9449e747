package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// logWriter is a file that is appended to.
type logWriter interface {
	io.WriteCloser
	Truncate(size int64) error
}

// maxLater bounds the records that wait.
const maxLater = 64

// Lazily lets records wait for Flush, or for the next one that does not wait: of what the guest makes, and of what it leaves.
// What was the user's is written before the guest may change it. Who is killed in between leaves names and contents of
// the guest's that undo takes for the user's, and loses nothing.
func (w *Writer) Lazily() {
	if w != nil {
		w.lazy = true
	}
}

// Flush writes the records that wait, see Lazily.
func (w *Writer) Flush() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write() //nolint:errcheck // write says so, once
}

func (w *Writer) append(r record) error {
	w.later = append(w.later, r)
	waits := w.lazy && (r.Op != opOld || r.Kind == None)
	if waits && len(w.later) < maxLater {
		return nil
	}
	err := w.write()
	switch {
	case err == nil:
	case !waits: // its change is refused, or it is not to be taken back
		w.later = w.later[:len(w.later)-1]
	case len(w.later) >= 2*maxLater:
		w.later = w.later[:0]
	}
	return err
}

// write writes the records that wait. They go on waiting if that fails.
func (w *Writer) write() (err error) {
	if len(w.later) == 0 {
		return nil
	}
	var all bytes.Buffer
	lines := json.NewEncoder(&all)
	for _, r := range w.later {
		err = errors.Join(err, lines.Encode(r))
	}
	if err == nil && w.torn {
		err = w.file.Truncate(w.size)
	}
	if err == nil {
		_, err = w.file.Write(all.Bytes())
		w.torn = err != nil
	}
	if err == nil {
		w.size += int64(all.Len())
		w.later = w.later[:0]
	}
	if err == nil && w.size > w.shrink {
		w.shrink = 2 * w.size
		if err := w.compact(); err == nil {
			w.shrink = max(worthShrinking, 2*w.size)
		}
	}
	if err != nil && !w.broken {
		w.broken = true
		w.log.Error("the journal cannot be written: changes cannot be taken back", "error", err)
	}
	return err
}
