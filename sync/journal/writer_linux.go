package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxPaths bounds what a checkpoint remembers; a guest that touches more is told of in the log, and undo
// does not know of the rest.
const maxPaths = 1 << 20

// guestsPart of the room is for the guest's own work of earlier checkpoints.
const guestsPart = 4

// Writer records a guest's changes. Its methods are safe for concurrent use; a nil Writer keeps nothing.
type Writer struct {
	dir    string
	limits Limits
	undo   bool
	log    *slog.Logger

	mu     sync.Mutex
	id     int
	file   logWriter
	lazy   bool              // there will be a Flush
	later  []record          // those that wait for it
	size   int64             // of the log: the records that are whole
	shrink int64             // the size from which on it is worth to be written anew
	torn   bool              // behind them may be what a full disk took of one
	seen   map[string]seen   // by place: recorded since the checkpoint, as what
	users  int               // of these, what was the user's: the guest's own names take no room from it
	meta   map[string]seen   // by place: only mode and times were recorded, as they are since
	left   map[fileID]*left  // what the guest left, by inode; an entry stays, see Held
	names  map[fileID]record // of files with more names than one: what was recorded first
	data   int               // contents of this checkpoint
	used   int64             // bytes of all checkpoints
	mine   int64             // bytes of this one
	guests int64             // of these, of what is the guest's own
	full   bool              // told that maxPaths is reached
	broken bool              // told that the log cannot be written
	// refused: told that there is no room to keep what the guest is about to change
	refused bool
}

type fileID struct{ dev, ino uint64 }

// seen is what tells a recorded state from others.
type seen struct {
	kind  Kind
	ino   uint64
	size  int64
	mtime int64
}

func (s seen) is(now State) bool { return s == seenOf(now) }

func seenOf(s State) seen { return seen{s.Kind, s.Ino, s.Size, s.MTime} }

// left is a file as the guest left it. Its place was recorded in that checkpoint; 0: in none that is known.
type left struct {
	State
	checkpoint int
}

// is tells whether a file is as the guest left it; of nil nothing is known.
func (l *left) is(now State) bool { return l != nil && l.same(now) }

// Place is where something is: an export's name and components below it.
type Place struct {
	Export string
	Path   string // joined by slashes
}

func (p Place) key() string { return p.Export + "\x00" + p.Path }

// Open begins a journal in dir, which exists and is the caller's alone, with a checkpoint. The caller closes it.
func Open(dir string, limits Limits, label string, log *slog.Logger) (*Writer, error) {
	return open(dir, limits, label, false, log)
}

// OpenUndo begins a checkpoint that an undo is kept in, beside the writer of the file server.
func OpenUndo(dir string, limits Limits, label string, log *slog.Logger) (*Writer, error) {
	return open(dir, limits, label, true, log)
}

func open(dir string, limits Limits, label string, undo bool, log *slog.Logger) (*Writer, error) {
	w := &Writer{dir: dir, limits: limits.orDefaults(), undo: undo, log: log, left: map[fileID]*left{}}
	if _, err := w.Checkpoint(label); err != nil {
		return nil, err
	}
	return w, nil
}

// ID is the number of the current checkpoint.
func (w *Writer) ID() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

// Close ends it. What was recorded stays.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write() //nolint:errcheck // write says so, once
	return w.file.Close()
}

// Checkpoint begins a new one: from now on the first change of each path counts again. It gives its number.
func (w *Writer) Checkpoint(label string) (int, error) {
	if w == nil {
		return 0, errors.New("this sandbox keeps no journal")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id, err := begin(w.dir, label, w.undo, time.Now())
	if err != nil {
		return 0, err
	}
	file, err := os.OpenFile(filepath.Join(w.dir, name(id), logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("begin a checkpoint: %w", err)
	}
	if w.file != nil {
		w.write() //nolint:errcheck // write says so, once
		w.file.Close()
	}
	w.id, w.file, w.later, w.size, w.shrink, w.torn, w.data = id, file, nil, 0, worthShrinking, false, 0
	w.names = map[fileID]record{}
	w.seen, w.meta, w.full, w.broken, w.refused = map[string]seen{}, map[string]seen{}, false, false, false
	w.used, w.mine, w.guests, w.users = w.count(), 0, 0, 0
	w.makeRoom(0)
	return id, nil
}

func (w *Writer) count() int64 {
	list, err := Checkpoints(w.dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, c := range list {
		sum += c.Bytes
	}
	return sum
}

// Before records what stands at a place that the guest is about to change, remove or replace, unless it is
// known or the guest's own. It must return before the change is made, which must not be made after an error: there
// is no room for what is the user's. (What is larger than the limits is not kept and no error.)
func (w *Writer) Before(at Place, src Source) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.before(at, src)
}

// beforeMade is before for a place where nothing stands, or nothing stood until just now.
func (w *Writer) beforeMade(at Place) {
	key := at.key()
	if _, known := w.seen[key]; !known {
		w.remember(key, record{Op: opOld, Export: at.Export, Path: []byte(at.Path), State: State{Kind: None}}) //nolint:errcheck // it was said, nothing is lost
	}
}

func (w *Writer) before(at Place, src Source) error {
	st, err := src.stat()
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			w.beforeMade(at)
		}
		return nil
	}
	key := at.key()
	was, known := w.seen[key]
	now := stateOf(&st, src)
	own := w.left[fileID{st.Dev, st.Ino}].is(now)
	if known && (now.Kind == Dir || own || was.is(now)) {
		return nil // the guest's own work since the checkpoint, or what was recorded when nothing came of it
	}
	r := record{Op: opOld, Export: at.Export, Path: []byte(at.Path), State: now, Guest: own}
	id := fileID{st.Dev, st.Ino}
	if first, ok := w.names[id]; ok && !known && r.Guest { // by another name the guest changed it before
		r.State, r.Data, r.Lost, r.Guest = first.State, first.Data, first.Lost, first.Guest
	} else if now.Kind == File {
		var err error
		if r.Data, err = w.keep(src, now.Size, r.Guest); err != nil {
			if noRoom(err) && !r.Guest {
				return w.refuse(at, err)
			}
			r.Lost = plain(err)
			w.log.Warn("an old version was not kept", "path", at.Path, "why", r.Lost)
		}
	}
	if _, ok := w.names[id]; !ok && st.Nlink > 1 && now.Kind == File && len(w.names) < maxPaths {
		w.names[id] = r
	}
	if err := w.remember(key, r); noRoom(err) && !r.Guest {
		if !known {
			delete(w.seen, key)
			w.users--
		}
		return w.refuse(at, err)
	}
	return nil
}

// note writes down what was done already: without it undo takes it for the user's.
func (w *Writer) note(r record) {
	w.append(r) //nolint:errcheck // append says so, once
}

// noRoom tells of an error that a guest can bring about, and that may be gone a moment later.
func noRoom(err error) bool {
	for _, is := range []error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// refuse says, once, why the guest may not change what is the user's.
func (w *Writer) refuse(at Place, err error) error {
	if !w.refused {
		w.refused = true
		w.log.Error("there is no room to keep old versions: the guest may not change or remove what it did not make", "path", at.Path, "why", plain(err))
	}
	return unix.ENOSPC
}

func (w *Writer) remember(key string, r record) error {
	users := r.Kind != None && !r.Guest
	if count := len(w.seen) - w.users; users && w.users >= maxPaths || !users && count >= maxPaths {
		if !w.full {
			w.full = true
			w.log.Warn("the journal is full, later changes are not in it: make a checkpoint", "paths", maxPaths)
		}
		return nil
	}
	if _, known := w.seen[key]; !known && users {
		w.users++
	}
	w.seen[key] = seenOf(r.State)
	return w.append(r)
}

// keep copies a content, by reflink where the file system has it.
//
// What the guest itself made has a part of the room only: with large files of its own, changed again after a
// checkpoint, it could take all of it, and destroy what is the user's after that.
func (w *Writer) keep(src Source, size int64, guests bool) (data string, err error) {
	if guests && !w.undo && w.guests+size > w.limits.Total/guestsPart {
		return "", errors.New("it is the guest's own, which has no more room in the journal")
	}
	if size > w.limits.File {
		return "", fmt.Errorf("%d bytes, more than %d", size, w.limits.File)
	}
	if !w.makeRoom(size) {
		return "", fmt.Errorf("the journal has %d bytes already", w.used)
	}
	in, err := src.open()
	if err != nil {
		return "", err
	}
	defer in.Close()
	data = strconv.Itoa(w.data)
	path := filepath.Join(w.dir, name(w.id), dataDir, data)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		n, err := io.Copy(out, io.LimitReader(in, w.limits.File+1))
		if err == nil && n > w.limits.File {
			err = errors.New("it grew past the limit while it was read")
		}
		if err != nil {
			os.Remove(path) //nolint:errcheck // it is not named by any record
			return "", err
		}
		size = n
	}
	w.data++
	w.used, w.mine = w.used+size, w.mine+size
	if guests {
		w.guests += size
	}
	return data, nil
}

// plain is an error without the path, which is that of a descriptor.
func plain(err error) string {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return err.Error()
}

// makeRoom drops the oldest checkpoints but the current one until there is room.
//
// An undo drops nothing: it might be what is about to be put back. It has as much room again, and the next
// checkpoint sees to the rest.
func (w *Writer) makeRoom(size int64) bool {
	if w.undo {
		return w.mine+size <= w.limits.Total
	}
	for w.used+size > w.limits.Total {
		list, err := Checkpoints(w.dir)
		if err != nil || len(list) == 0 || list[0].ID >= w.id {
			return false
		}
		if err := os.RemoveAll(filepath.Join(w.dir, name(list[0].ID))); err != nil {
			return false
		}
		w.used -= list[0].Bytes
		w.log.Warn("the oldest checkpoint was dropped, the journal is full", "checkpoint", list[0].ID, "bytes", list[0].Bytes)
	}
	return true
}

// leave remembers what the guest left, in the entry that there is. It gives that; nil if there are too many. The caller
// holds the lock.
func (w *Writer) leave(id fileID, now left) *left {
	l := w.left[id]
	if l == nil {
		if len(w.left) >= maxPaths {
			return nil
		}
		l = &left{}
		w.left[id] = l
	}
	*l = now
	return l
}

// noteLeft writes down what the guest left. The caller holds the lock.
func (w *Writer) noteLeft(at Place, id fileID, now State) {
	l := left{State: now}
	if _, known := w.seen[at.key()]; known {
		l.checkpoint = w.id // a checkpoint may have begun since Before
	}
	w.leave(id, l)
	w.note(record{Op: opLeft, Export: at.Export, Path: []byte(at.Path), State: now})
}

// After notes what the guest left at a place: it is told from what the host's user does there later.
func (w *Writer) After(at Place, src Source) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after(at, src)
}

func (w *Writer) after(at Place, src Source) {
	st, err := src.stat()
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			w.noteGone(at)
		}
		return
	}
	w.noteLeft(at, fileID{st.Dev, st.Ino}, stateOf(&st, src))
}

// Made is Before and After for what was made just now at a place where nothing stood, else it could not have been made.
// st tells of it; nil where that is to be asked for.
func (w *Writer) Made(at Place, src Source, st *unix.Stat_t) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beforeMade(at)
	if st == nil {
		w.after(at, src)
		return
	}
	w.noteLeft(at, fileID{st.Dev, st.Ino}, stateOf(st, src))
}

// Closed is After for a file of which st tells, and that the guest was seen to change by Wrote: what the host's user made of
// it since then is not the guest's.
func (w *Writer) Closed(at Place, st *unix.Stat_t) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id := fileID{st.Dev, st.Ino}
	now := stateOf(st, Source{}) // where there were too many to remember
	if was := w.left[id]; was != nil {
		now = was.State
	}
	w.noteLeft(at, id, now)
}

// AfterGone is After for what was removed: what stands there by now is another's.
func (w *Writer) AfterGone(at Place) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteGone(at)
}

func (w *Writer) noteGone(at Place) {
	w.note(record{Op: opLeft, Export: at.Export, Path: []byte(at.Path), State: State{Kind: None}})
}

// keeper lets an undo use a writer: the undo is then a checkpoint like any other.
type keeper struct {
	w      *Writer
	export string
}

// Keeper gives the writer to an undo of an export.
func (w *Writer) Keeper(export string) Keeper { return keeper{w, export} }

func (k keeper) KeepAfter(root *os.Root, path string) { k.look(root, path, k.w.After) }

func (k keeper) KeepBefore(root *os.Root, path string) (err error) {
	k.look(root, path, func(at Place, src Source) { err = k.w.Before(at, src) })
	return err
}

// look opens the folder of a path, below the root, for f. Where that fails nothing is there to be kept.
func (k keeper) look(root *os.Root, path string, f func(Place, Source)) {
	dir, err := openFolder(root, filepath.Dir(path))
	if err != nil {
		return
	}
	defer dir.Close()
	f(Place{k.export, path}, Source{FD: int(dir.Fd()), Name: filepath.Base(path)})
}

// Record begins a journal of an export in dir, which exists and is the caller's alone, with a checkpoint. The
// caller closes it.
func Record(dir, export, label string, log *slog.Logger) (*Recording, error) {
	w, err := Open(dir, Limits{}, label, log)
	if err != nil {
		return nil, err
	}
	return &Recording{Checkpoint: w.Checkpoint, Keeper: w.Keeper(export), Closer: w}, nil
}

// BeginUndo begins a checkpoint that an undo of an export is kept in, so that it can be taken back. The caller
// closes it.
func BeginUndo(dir, export, label string, log *slog.Logger) (*UndoCheckpoint, error) {
	w, err := OpenUndo(dir, Limits{}, label, log)
	if err != nil {
		return nil, err
	}
	return &UndoCheckpoint{ID: w.ID(), Keeper: w.Keeper(export), Closer: w}, nil
}
