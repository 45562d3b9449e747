package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
)

// Kind is what stands at a path.
type Kind string

// The kinds. Others are FIFOs, sockets and devices, whose state is not kept.
const (
	Absent Kind = "absent"
	File   Kind = "file"
	Folder Kind = "folder"
	Link   Kind = "link"
	Other  Kind = "other"
)

// State is what stood at a path. Inode, MTime and CTime (nanoseconds) tell one version of
// a file from the next.
type State struct {
	Kind   Kind   `json:"kind"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits
	Size   int64  `json:"size,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	MTime  int64  `json:"mtime,omitempty"`
	CTime  int64  `json:"ctime,omitempty"`
	Target []byte `json:"target,omitempty"` // of a link
}

// same tells whether nobody changed a path between two looks at it. A folder's times
// change with what is in it, so they do not count.
func (s State) same(o State) bool {
	if s.Kind == Folder && o.Kind == Folder {
		return s.Mode == o.Mode && s.Inode == o.Inode
	}
	return s.Kind == o.Kind && s.Mode == o.Mode && s.Size == o.Size && s.Inode == o.Inode &&
		s.MTime == o.MTime && s.CTime == o.CTime && string(s.Target) == string(o.Target)
}

// record is one line of a log. Paths are bytes: names need not be UTF-8.
type record struct {
	Label  string `json:"label,omitempty"` // the first record's alone
	Path   []byte `json:"path,omitempty"`
	After  bool   `json:"after,omitempty"`  // what the guest left, else what was before
	Own    bool   `json:"own,omitempty"`    // before: what the guest had left itself
	Object uint64 `json:"object,omitempty"` // the content's number in the store
	Lost   string `json:"lost,omitempty"`   // why there is none
	State  State  `json:"state"`
}

// maxLine bounds a record: a path and a link's target of 4 KiB, in base64.
const maxLine = 64 << 10

func (r record) line() ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(body), body), nil
}

// readLog gives a log's records up to a torn end, and how many bytes they are.
func readLog(f io.Reader, each func(record)) (size int64, err error) {
	in := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) || errors.Is(err, bufio.ErrBufferFull) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		r, ok := parse(line)
		if !ok {
			return size, nil
		}
		size += int64(len(line))
		each(r)
	}
}

func parse(line []byte) (r record, ok bool) {
	if len(line) < 10 || line[8] != ' ' {
		return r, false
	}
	body := line[9 : len(line)-1]
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.ChecksumIEEE(body) {
		return r, false
	}
	return r, json.Unmarshal(body, &r) == nil
}

// readCheckpoint reads one checkpoint's log; one without a log has no records.
func readCheckpoint(dir *os.Root, number int, each func(record)) error {
	f, err := dir.Open(logName(number))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = readLog(f, each)
	return err
}
