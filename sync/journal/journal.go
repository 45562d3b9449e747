// Package journal keeps what a guest is about to change in a shared folder, so that the user can look at
// it and take it back: without git, and for files that git ignores.
//
// Since a checkpoint, before the guest changes what stands at a path for the first time, and again
// whenever somebody other than the guest has changed it meanwhile, its state is recorded and its content
// copied ([Writer]). After the change the journal notes what the guest left there. So at any later time
// a reader ([History]) can tell three things apart: what was there before, what the guest made of it, and
// what the host's user did since. Undo puts the first in place of the second and leaves the third alone.
//
// On disk a journal is a folder with one folder for each checkpoint, in it the file "log" (a JSON record a
// line, only ever appended to) and the kept contents under "data". A record is written before the change that
// it is about, so that a process that is killed loses no old version; a line that was not finished is
// dropped. Only what can be kept within [Limits] is: the oldest checkpoints go first, and a file that is
// too large is recorded without its content. Neither happens without a word.
//
// The writer is the file server, which a guest might take over: a reader believes no path and no number.
package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of what is kept, in bytes.
type Limits struct {
	File  int64 // one content; 256 MiB if 0
	Total int64 // all contents; 2 GiB if 0
}

func (l Limits) orDefaults() Limits {
	if l.File == 0 {
		l.File = 256 << 20
	}
	if l.Total == 0 {
		l.Total = 2 << 30
	}
	return l
}

// Kind of what stands at a path.
type Kind string

// The kinds.
const (
	None  Kind = "none"
	File  Kind = "file"
	Dir   Kind = "dir"
	Link  Kind = "link"
	Other Kind = "other" // FIFO, socket, device: not kept
)

// State is what stands at a path.
type State struct {
	Kind   Kind   `json:"kind"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits
	Size   int64  `json:"size,omitempty"`
	MTime  int64  `json:"mtime,omitempty"` // nanoseconds since 1970
	Ino    uint64 `json:"ino,omitempty"`
	Target []byte `json:"target,omitempty"` // of a link

	links uint64 // names of the file, where it was looked at just now
}

// same tells whether two states are the same file in the same version, as far as it shows.
func (s State) same(o State) bool {
	if s.Kind != o.Kind {
		return false
	}
	switch s.Kind {
	case File:
		return s.Ino == o.Ino && s.Size == o.Size && s.MTime == o.MTime
	case Link:
		return string(s.Target) == string(o.Target)
	}
	return true
}

// What a record says.
const (
	opOld  = "old"  // before a change: the state, with its content
	opMeta = "meta" // before a change of mode or times alone
	opLeft = "left" // after a change: what the guest left
	// after a change of mode and times alone, of a file whose content is not recorded: what the guest left
	opMetaLeft = "metaleft"
)

// record is one line of a log. Path is below the export, its components joined by slashes.
type record struct {
	Op     string `json:"op"`
	Export string `json:"export"`
	Path   []byte `json:"path"`
	State
	Data string `json:"data,omitempty"` // name of the kept content
	Lost string `json:"lost,omitempty"` // why there is none
	// Guest says of an old version that it is the guest's own, of an earlier checkpoint.
	Guest bool `json:"guest,omitempty"`
}

// Checkpoint is one that exists.
type Checkpoint struct {
	ID    int       `json:"id"`
	Label string    `json:"label"`
	Time  time.Time `json:"time"`
	Bytes int64     `json:"bytes"` // kept contents
	// Undo says that it was made by an undo, to take that back: it is no part of other histories.
	Undo bool `json:"undo,omitempty"`
}

type info struct {
	Version int       `json:"version"`
	Label   string    `json:"label"`
	Time    time.Time `json:"time"`
	Undo    bool      `json:"undo,omitempty"`
}

const (
	infoFile      = "checkpoint.json"
	logFile       = "log"
	dataDir       = "data"
	formatVersion = 1
	// maxLine bounds a record that is read: a longest path, twice encoded.
	maxLine = 64 << 10
)

// ErrNone says that a journal has no such checkpoint.
var ErrNone = errors.New("no such checkpoint")

// Checkpoints lists those that there are, oldest first. A journal that does not exist has none.
func Checkpoints(dir string) ([]Checkpoint, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	var out []Checkpoint
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil || id < 1 || !e.IsDir() {
			continue
		}
		c := Checkpoint{ID: id}
		var i info
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), infoFile))
		if err != nil || json.Unmarshal(data, &i) != nil || i.Version != formatVersion {
			continue // it was just being made
		}
		c.Label, c.Time, c.Undo = i.Label, i.Time, i.Undo
		kept, err := os.ReadDir(filepath.Join(dir, e.Name(), dataDir))
		if err == nil {
			for _, k := range kept {
				if st, err := k.Info(); err == nil {
					c.Bytes += st.Size()
				}
			}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Checkpoint) int { return a.ID - b.ID })
	return out, nil
}

// begin makes the folder of the next checkpoint. Two processes never get the same one.
func begin(dir, label string, undo bool, now time.Time) (int, error) {
	list, err := Checkpoints(dir)
	if err != nil {
		return 0, err
	}
	id := 1
	if len(list) > 0 {
		id = list[len(list)-1].ID + 1
	}
	for ; ; id++ {
		err := os.Mkdir(filepath.Join(dir, name(id)), 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) {
			return 0, fmt.Errorf("begin a checkpoint: %w", err)
		}
	}
	folder := filepath.Join(dir, name(id))
	data, err := json.Marshal(info{Version: formatVersion, Label: label, Time: now.UTC().Truncate(time.Millisecond), Undo: undo})
	if err != nil {
		return 0, fmt.Errorf("begin a checkpoint: %w", err)
	}
	err = errors.Join(os.Mkdir(filepath.Join(folder, dataDir), 0o700), os.WriteFile(filepath.Join(folder, infoFile), data, 0o600))
	if err != nil {
		return 0, fmt.Errorf("begin a checkpoint: %w", err)
	}
	return id, nil
}

func name(id int) string { return fmt.Sprintf("%06d", id) }

// readLog gives the records of a checkpoint in their order. What is not a record ends it.
func readLog(folder string, each func(record)) error {
	f, err := os.Open(filepath.Join(folder, logFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // and a line that was not finished
		}
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil || !validPath(string(r.Path)) {
			return fmt.Errorf("read the journal: a record of %s is broken", folder)
		}
		each(r)
	}
}

// validPath: components and nothing else, none of which leads up.
func validPath(path string) bool {
	if path == "" || len(path) > 4096 || strings.ContainsRune(path, 0) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
