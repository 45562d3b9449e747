package main

import (
	"bytes"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	page       = 4096
	pages      = 64
	increments = 20_000
)

// mapped gives f a file's memory, shared with all that map it.
func mapped(path string, size int, f func(memory []byte) error) error {
	return mappedWith(path, 0, size, f)
}

func mappedWith(path string, flags, size int, f func(memory []byte) error) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory) //nolint:errcheck // what was written is synced by f
	if err := f(memory); err != nil {
		return err
	}
	return unix.Msync(memory, unix.MS_SYNC)
}

func checkMmap(s *scene) {
	s.file("file", strings.Repeat("-", 3*page))
	s.is("mmap", mapped(s.path("file"), 3*page, func(memory []byte) error {
		copy(memory[page:], "mapped")
		s.with("file", unix.O_RDWR, func(fd int) {
			buf := make([]byte, 6)
			_, err := unix.Pread(fd, buf, page)
			s.is("read", err, nil)
			same(s, "what was written to memory", string(buf), "mapped")
			_, err = unix.Pwrite(fd, []byte("written"), 2*page)
			s.is("write", err, nil)
		})
		same(s, "memory after a write", string(memory[2*page:2*page+7]), "written")
		return nil
	}), nil)
	line := strings.Repeat("-", page)
	s.content("file", line+"mapped"+line[6:]+"written"+line[7:])
	s.with("file", unix.O_RDONLY, func(fd int) {
		private, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if s.is("a private mapping", err, nil); err == nil {
			copy(private, "private")
			s.is("munmap", unix.Munmap(private), nil)
		}
		_, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		s.is("a shared mapping of what is open for reading", err, unix.EACCES)
	})
	s.content("file", line+"mapped"+line[6:]+"written"+line[7:])
}

// checkMmapAppend: memory of a file that is open to append to, as a log, goes where it belongs.
func checkMmapAppend(s *scene) {
	s.file("file", strings.Repeat("-", 2*page))
	s.is("mmap", mappedWith(s.path("file"), unix.O_APPEND, 2*page, func(memory []byte) error {
		copy(memory[page:], "mapped")
		s.is("msync", unix.Msync(memory, unix.MS_SYNC), nil)
		s.with("file", unix.O_WRONLY|unix.O_APPEND, func(log int) { s.put(log, "appended") })
		copy(memory, "again")
		return nil
	}), nil)
	line := strings.Repeat("-", page)
	same(s, "size", s.stat("file").Size, 2*page+8)
	s.content("file", "again"+line[5:]+"mapped"+line[6:]+"appended")
}

// checkCounters: two processes count in the same memory, and fill pages beside each other's.
func checkCounters(s *scene) {
	s.file("file", strings.Repeat("\x00", pages*page))
	s.all("count", 2)
	s.is("mmap", mapped(s.path("file"), pages*page, func(memory []byte) error {
		same(s, "sum of two processes", atomic.LoadInt64((*int64)(unsafe.Pointer(&memory[0]))), 2*increments)
		return nil
	}), nil)
	s.all("pages", 2)
	data, err := os.ReadFile(s.path("file"))
	s.is("read", err, nil)
	same(s, "size", len(data), pages*page)
	for i := 1; i < min(len(data)/page, pages); i++ {
		if want := byte('a' + i%2); bytes.Count(data[i*page:(i+1)*page], []byte{want}) != page {
			s.fault("page %d is not of process %d", i, i%2)
		}
	}
}

func countShared(dir string, _ int) error {
	return mapped(dir+"/file", pages*page, func(memory []byte) error {
		for range increments {
			atomic.AddInt64((*int64)(unsafe.Pointer(&memory[0])), 1)
		}
		return nil
	})
}

// writePages fills every second page; the first holds the counter.
func writePages(dir string, n int) error {
	return mapped(dir+"/file", pages*page, func(memory []byte) error {
		for i := 1; i < pages; i++ {
			if i%2 == n {
				copy(memory[i*page:], bytes.Repeat([]byte{byte('a' + n)}, page))
			}
		}
		return nil
	})
}
