package main

import (
	"bytes"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// checkRandom plays random calls on one file, by several descriptors and by memory, against a model of its content,
// as fsx does. The same seeds give the same calls.
func checkRandom(s *scene) {
	for seed := range uint64(4) {
		p := &player{scene: s, r: rand.New(rand.NewPCG(seed, 1)), name: s.file("file", "")}
		p.play()
		s.is("unlink", unix.Unlink(p.name), nil)
		if len(s.faults) > 0 {
			s.fault("with seed %d after %v", seed, p.done)
			return
		}
	}
}

const (
	randomCalls = 200
	randomSize  = 256 << 10
)

type player struct {
	*scene
	r     *rand.Rand
	name  string
	model []byte
	done  []string
	fds   [2]int
}

func (p *player) play() {
	for i, flags := range []int{unix.O_RDWR, unix.O_RDWR | unix.O_APPEND} {
		fd, err := unix.Open(p.name, flags|unix.O_CLOEXEC, 0)
		if p.is("open", err, nil); err != nil {
			return
		}
		defer unix.Close(fd)
		p.fds[i] = fd
	}
	calls := map[string]func(){
		"write": p.write, "append": p.append, "truncate": p.truncate, "memory": p.memory, "punch": p.punch, "allocate": p.allocate,
		"copy": p.copyRange, "read": p.read, "sync": func() { p.is("fsync", unix.Fsync(p.fds[0]), nil) },
	}
	names := []string{"write", "write", "append", "truncate", "memory", "memory", "punch", "allocate", "copy", "read", "sync"}
	for range randomCalls {
		name := names[p.r.IntN(len(names))]
		p.done = append(p.done, name)
		calls[name]()
		if len(p.faults) == 0 {
			p.compare()
		}
		if len(p.faults) > 0 {
			return
		}
	}
	data, err := os.ReadFile(p.name)
	p.is("read all", err, nil)
	p.equal("the file", data, p.model)
}

// compare looks at a piece through each descriptor.
func (p *player) compare() {
	same(p.scene, "size", p.stat("file").Size, int64(len(p.model)))
	at, n := p.piece()
	for _, fd := range p.fds {
		buf := make([]byte, n)
		got, err := unix.Pread(fd, buf, int64(at))
		p.is("pread", err, nil)
		p.equal("a piece", buf[:max(got, 0)], p.model[min(at, len(p.model)):min(at+n, len(p.model))])
	}
}

func (p *player) equal(what string, got, want []byte) {
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			p.fault("%s: %d bytes, the first that is wrong is %d: %#x, want %#x", what, len(got), i, got[i], want[i])
			return
		}
	}
	p.fault("%s: %d bytes, want %d", what, len(got), len(want))
}

func (p *player) piece() (at, size int) {
	return p.r.IntN(randomSize * 3 / 4), 1 + p.r.IntN(randomSize/4)
}

func (p *player) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(p.r.Uint32())
	}
	return b
}

// grow makes the model at least so long.
func (p *player) grow(size int) {
	if size > len(p.model) {
		p.model = append(p.model, make([]byte, size-len(p.model))...)
	}
}

func (p *player) write() {
	at, n := p.piece()
	data := p.bytes(n)
	got, err := unix.Pwrite(p.fds[0], data, int64(at))
	p.is("pwrite", err, nil)
	same(p.scene, "bytes written", got, n)
	p.grow(at + n)
	copy(p.model[at:], data)
}

func (p *player) append() {
	if len(p.model) > randomSize {
		return
	}
	data := p.bytes(1 + p.r.IntN(5000))
	got, err := unix.Write(p.fds[1], data)
	p.is("append", err, nil)
	same(p.scene, "bytes appended", got, len(data))
	p.model = append(p.model, data...)
}

func (p *player) truncate() {
	size := p.r.IntN(randomSize)
	p.is("ftruncate", unix.Ftruncate(p.fds[p.r.IntN(2)], int64(size)), nil)
	p.grow(size)
	p.model = p.model[:size]
}

// memory writes to a mapping of either descriptor, and reads what the other wrote.
func (p *player) memory() {
	if len(p.model) == 0 {
		return
	}
	memory, err := unix.Mmap(p.fds[p.r.IntN(2)], 0, len(p.model), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if p.is("mmap", err, nil); err != nil {
		return
	}
	p.equal("memory", memory, p.model)
	at := p.r.IntN(len(p.model))
	data := p.bytes(1 + p.r.IntN(min(9000, len(p.model)-at)))
	copy(memory[at:], data)
	copy(p.model[at:], data)
	if p.r.IntN(2) == 0 {
		p.is("msync", unix.Msync(memory, unix.MS_SYNC), nil)
	}
	p.is("munmap", unix.Munmap(memory), nil)
}

func (p *player) punch() {
	at, n := p.piece()
	p.is("punch", unix.Fallocate(p.fds[0], unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n)), nil)
	if at < len(p.model) {
		clear(p.model[at:min(at+n, len(p.model))])
	}
}

func (p *player) allocate() {
	at, n := p.piece()
	p.is("fallocate", unix.Fallocate(p.fds[0], 0, int64(at), int64(n)), nil)
	p.grow(at + n)
}

// copyRange copies within the file, where the pieces do not meet.
func (p *player) copyRange() {
	half := len(p.model) / 2
	if half == 0 {
		return
	}
	from, n := p.r.IntN(half), 1+p.r.IntN(half)
	n = min(n, half-from)
	in, out := int64(from), int64(half)
	got, err := unix.CopyFileRange(p.fds[0], &in, p.fds[0], &out, n, 0)
	p.is("copy_file_range", err, nil)
	if got > 0 {
		copy(p.model[half:half+got], p.model[from:from+got])
	}
}

func (p *player) read() {
	at := p.r.IntN(len(p.model) + 1)
	_, err := unix.Seek(p.fds[0], int64(at), unix.SEEK_SET)
	p.is("seek", err, nil)
	buf := make([]byte, 5000)
	n, err := unix.Read(p.fds[0], buf)
	p.is("read", err, nil)
	p.equal("what is read", buf[:max(n, 0)], p.model[at:min(at+5000, len(p.model))])
}
