package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
)

// logLimit bounds one file of a log that the guest can fill; there are two.
const logLimit = 4 << 20

// ring is a log of bounded size: when the file is full it becomes NAME.1 and a new
// one begins. It also remembers the end of what was written.
type ring struct {
	mu    sync.Mutex
	path  string
	limit int64
	file  *os.File
	size  int64
	tail  []byte
}

func openRing(path string, limit int64) (*ring, error) {
	r := &ring{path: path, limit: limit}
	return r, r.open(os.O_APPEND)
}

func (r *ring) open(how int) error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|how, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write never fails a writer for want of room: a log that cannot be written is
// worth less than what it tells of.
func (r *ring) Write(p []byte) (int, error) {
	const remember = 2 << 10
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tail = append(r.tail, p[max(0, len(p)-remember):]...)
	r.tail = r.tail[max(0, len(r.tail)-remember):]
	if r.file == nil {
		return len(p), nil
	}
	if r.size+int64(len(p)) > r.limit && r.size > 0 {
		r.rotate()
	}
	n, _ := r.file.Write(p) //nolint:errcheck // see above
	r.size += int64(n)
	return len(p), nil
}

func (r *ring) rotate() {
	if err := os.Rename(r.path, r.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	old := r.file
	if r.open(os.O_TRUNC) == nil {
		old.Close()
	}
}

// last is the last non-empty line.
func (r *ring) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(r.tail)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// end is the end of the log.
func (r *ring) end() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.tail)
}

// Close closes the file; what is written later is forgotten.
func (r *ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// console copies what the guest prints into its log.
type console struct {
	log  *ring
	done chan struct{}
}

func newConsole(from net.Conn, log *ring) *console {
	c := &console{log: log, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer log.Close()
		io.Copy(log, from) //nolint:errcheck // it ends with QEMU
	}()
	return c
}

// panicked tells whether the last that the kernel said was a panic.
func (c *console) panicked() bool {
	<-c.done
	return strings.Contains(c.log.end(), "Kernel panic")
}
