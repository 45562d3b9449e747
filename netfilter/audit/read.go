package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// maxLine bounds what a reader takes for one entry; a longer line is skipped.
const maxLine = 64 << 10

// ReadOptions choose entries.
type ReadOptions struct {
	Follow bool          // go on with what is written later, until the context ends
	Denied bool          // refusals alone
	Since  time.Time     // none older
	Poll   time.Duration // between looks for more, 250 ms if 0
}

// Read calls f for the entries of the log at path, the older file first, in the
// order they were written. Lines that are no entries (cut off by a crash) are
// skipped. It returns nil at the end, or when the context of a followed log ends,
// and else the error of reading or of f. A log that does not exist is empty.
func Read(ctx context.Context, path string, opts ReadOptions, f func(Entry) error) error {
	if opts.Poll <= 0 {
		opts.Poll = 250 * time.Millisecond
	}
	pick := func(line []byte) error {
		e, ok := opts.pick(line)
		if !ok {
			return nil
		}
		return f(e)
	}
	if err := readWhole(path+".1", pick); err != nil {
		return err
	}
	if !opts.Follow {
		return readWhole(path, pick)
	}
	return follow(ctx, path, opts.Poll, pick)
}

// pick decodes a line and tells whether it is an entry that was asked for.
func (o ReadOptions) pick(line []byte) (Entry, bool) {
	var e Entry
	err := json.Unmarshal(line, &e)
	return e, err == nil && (e.Denied() || !o.Denied) && !e.Time.Before(o.Since)
}

func readWhole(path string, f func([]byte) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return newLines(file).each(f)
}

// follow reads the file to its end again and again, and the one that takes its
// place after a rotation.
func follow(ctx context.Context, path string, poll time.Duration, f func([]byte) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var file *os.File
	var in *lines
	defer func() {
		if file != nil {
			file.Close()
		}
	}()
	for {
		if file != nil {
			moved := replaced(file, path) // asked first: what was written before the move is still read below
			if err := in.each(f); err != nil {
				return err
			}
			if moved {
				file.Close()
				file = nil
			}
		}
		if file == nil {
			opened, err := os.Open(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil {
				file, in = opened, newLines(opened)
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func replaced(file *os.File, path string) bool {
	now, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	was, err := file.Stat()
	return err == nil && !os.SameFile(was, now)
}

// lines splits a growing file: what follows the last line end is kept until the
// rest of the line is there.
type lines struct {
	in   *bufio.Reader
	part []byte
	skip bool // the line is longer than maxLine
}

func newLines(r io.Reader) *lines { return &lines{in: bufio.NewReaderSize(r, maxLine)} }

func (l *lines) each(f func([]byte) error) error {
	for {
		chunk, err := l.in.ReadSlice('\n')
		if len(l.part)+len(chunk) > maxLine {
			l.part, l.skip = nil, true
		}
		if !l.skip {
			l.part = append(l.part, chunk...)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return err
		}
		line, skip := l.part, l.skip
		l.part, l.skip = nil, false
		if !skip {
			if err := f(line); err != nil {
				return err
			}
		}
	}
}
