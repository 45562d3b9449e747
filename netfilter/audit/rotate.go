package audit

import (
	"errors"
	"os"
)

// rotator appends lines to a file and moves it aside when it is full. At most
// two files of the bound exist. It is used by one goroutine.
type rotator struct {
	path string
	max  int64
	file *os.File
	size int64
}

func openRotator(path string, limit int64) (*rotator, error) {
	r := &rotator{path: path, max: limit}
	return r, r.open()
}

func (r *rotator) open() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.file, r.size = f, info.Size()
	return nil
}

// writeLine appends one line by one write, so that a reader sees whole lines or
// the beginning of the last one.
func (r *rotator) writeLine(line []byte) error {
	if r.file == nil {
		if err := r.open(); err != nil { // a rotation failed half way: try again
			return err
		}
	}
	line = append(line, '\n')
	if r.size+int64(len(line)) > r.max {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return err
}

func (r *rotator) rotate() error {
	err := r.file.Close()
	r.file = nil
	if err := errors.Join(err, os.Rename(r.path, r.path+".1")); err != nil {
		return err
	}
	return r.open()
}

func (r *rotator) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
