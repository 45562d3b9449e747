package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// followEvery is how often a followed log is looked at.
const followEvery = 250 * time.Millisecond

// logTail reads one log of a sandbox as it grows. The file may be missing yet, cut
// to nothing or replaced by a new one; none of it is an error.
type logTail struct {
	kind, path string
	prefix     string // of the lines that are meant; the others are left out
	file       *os.File
	read       int64
	partial    []byte // the beginning of a line whose end is not written yet
}

// drain passes on the whole lines that are there now.
func (t *logTail) drain(lines func(kind, line string) error) error {
	for {
		if err := t.open(); err != nil || t.file == nil {
			return err
		}
		if err := t.drainFile(lines); err != nil {
			return err
		}
		replaced, err := t.replaced()
		if err != nil || !replaced {
			return err
		}
		// The old file is read to its end by now; what replaced it is next.
		if err := t.flush(lines); err != nil {
			return err
		}
		t.Close()
	}
}

func (t *logTail) open() error {
	if t.file != nil {
		return nil
	}
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the %s log: %w", t.kind, err)
	}
	t.file, t.read = file, 0
	return nil
}

func (t *logTail) drainFile(lines func(kind, line string) error) error {
	chunk := make([]byte, maxLogLine)
	for {
		n, err := t.file.ReadAt(chunk, t.read)
		t.read += int64(n)
		t.partial = append(t.partial, chunk[:n]...)
		if err := t.passOn(lines); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the %s log: %w", t.kind, err)
		}
	}
}

// passOn hands out the lines in partial, and a line without end in pieces.
func (t *logTail) passOn(lines func(kind, line string) error) error {
	for {
		end := bytes.IndexByte(t.partial, '\n')
		if end < 0 {
			if len(t.partial) < maxLogLine {
				return nil
			}
			end = maxLogLine - 1
		}
		if err := t.pass(string(t.partial[:end+1]), lines); err != nil {
			return err
		}
		t.partial = t.partial[end+1:]
	}
}

// flush hands out a last line without end.
func (t *logTail) flush(lines func(kind, line string) error) error {
	if len(t.partial) == 0 {
		return nil
	}
	line := string(t.partial)
	t.partial = nil
	return t.pass(line, lines)
}

func (t *logTail) pass(line string, lines func(kind, line string) error) error {
	if !strings.HasPrefix(line, t.prefix) {
		return nil
	}
	return lines(t.kind, line)
}

// replaced says whether the path is another file now, or this one began anew.
func (t *logTail) replaced() (bool, error) {
	mine, err := t.file.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return !os.SameFile(mine, now) || now.Size() < t.read, nil
}

// Close closes the file, if one is open.
func (t *logTail) Close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}
