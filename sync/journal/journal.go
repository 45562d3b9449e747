package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
)

// Limits bound what a journal keeps, in bytes. Zero takes the default.
type Limits struct {
	File  int64 // of one file's content: 256 MiB
	Total int64 // of all contents: 2 GiB; the oldest checkpoints go first
}

const (
	defaultFile  = 256 << 20
	defaultTotal = 2 << 30
	// maxKnown bounds the memory of what the guest left. A path that is forgotten counts
	// as the host's user's, and is kept once more.
	maxKnown = 1 << 17
)

// Journal writes one checkpoint at a time. Its methods may be called by many at once.
type Journal struct {
	limits Limits
	warn   *slog.Logger

	mu     sync.Mutex
	dir    *os.Root
	number int
	log    *os.File
	object uint64
	sizes  map[int]int64       // contents by checkpoint
	left   map[string]State    // what the guest left
	kept   map[string]struct{} // has a record of before in this checkpoint
	dirty  map[string]struct{} // left has changed since the last record of after
}

// Open opens the journal in a folder that exists, and begins a checkpoint. What goes wrong
// with no caller to tell goes to log.
func Open(dir string, limits Limits, label string, log *slog.Logger) (*Journal, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if limits.File <= 0 {
		limits.File = defaultFile
	}
	if limits.Total <= 0 {
		limits.Total = defaultTotal
	}
	j := &Journal{
		limits: limits, warn: log, dir: root, sizes: map[int]int64{}, left: map[string]State{},
		kept: map[string]struct{}{}, dirty: map[string]struct{}{},
	}
	if err = j.load(); err == nil {
		_, err = j.Checkpoint(label)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return j, nil
}

// load learns from earlier checkpoints what the guest left and how much is kept.
func (j *Journal) load() error {
	numbers, err := list(j.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, n := range numbers {
		err := readCheckpoint(j.dir, n, func(r record) {
			if r.After {
				j.know(string(r.Path), r.State)
			}
			if r.Object != 0 {
				j.sizes[n] += r.State.Size
			}
		})
		if err != nil {
			return fmt.Errorf("journal: checkpoint %d: %w", n, err)
		}
	}
	return nil
}

// list gives the checkpoints' numbers, oldest first.
func list(dir *os.Root) ([]int, error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

func logName(number int) string { return path.Join(strconv.Itoa(number), "log") }

func objectName(number int, object uint64) string {
	return path.Join(strconv.Itoa(number), strconv.FormatUint(object, 10))
}

// Checkpoint begins a new checkpoint and gives its number.
func (j *Journal) Checkpoint(label string) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.settle(); err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	numbers, err := list(j.dir)
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	next := 1
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	}
	if err := j.dir.Mkdir(strconv.Itoa(next), 0o700); err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	log, err := j.dir.OpenFile(logName(next), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	if j.log != nil {
		j.log.Close()
	}
	j.log, j.number, j.object = log, next, 0
	clear(j.kept)
	return next, j.append(record{Label: label, State: State{Kind: Absent}})
}

func (j *Journal) append(r record) error {
	line, err := r.line()
	if err != nil {
		return err
	}
	_, err = j.log.Write(line)
	return err
}

// settle writes down what the guest left where that is not yet done.
func (j *Journal) settle() error {
	for name := range j.dirty {
		if err := j.append(record{Path: []byte(name), After: true, State: j.left[name]}); err != nil {
			return err
		}
		delete(j.dirty, name)
	}
	return nil
}

// Close writes down what the guest left and closes the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.settle(), j.log.Close(), j.dir.Close())
}
