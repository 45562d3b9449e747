package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

func checkTruncate(s *scene) {
	file, folder := s.file("file", "0123456789"), s.folder("folder")
	s.is("shorter", unix.Truncate(file, 4), nil)
	s.content("file", "0123")
	s.is("longer", unix.Truncate(file, 8), nil)
	s.content("file", "0123\x00\x00\x00\x00")
	s.is("negative", unix.Truncate(file, -1), unix.EINVAL)
	s.is("a folder", unix.Truncate(folder, 0), unix.EISDIR)
	s.is("nothing", unix.Truncate(s.path("none"), 0), unix.ENOENT)
	s.with("file", unix.O_RDONLY, func(fd int) { s.is("open for reading", unix.Ftruncate(fd, 0), unix.EINVAL) })
	s.with("file", unix.O_RDWR, func(fd int) {
		s.is("ftruncate", unix.Ftruncate(fd, 2), nil)
		_, err := unix.Pwrite(fd, []byte("x"), 5)
		s.is("pwrite behind the end", err, nil)
	})
	s.content("file", "01\x00\x00\x00x")
	s.with("file", unix.O_RDWR, func(fd int) {
		const far = 5 << 30
		_, err := unix.Pwrite(fd, []byte("far"), far)
		s.is("pwrite behind 4 GiB", err, nil)
		same(s, "size", s.stat("file").Size, far+3)
		buf := make([]byte, 3)
		_, err = unix.Pread(fd, buf, far)
		s.is("pread behind 4 GiB", err, nil)
		same(s, "content behind 4 GiB", string(buf), "far")
		s.is("ftruncate", unix.Ftruncate(fd, 0), nil)
	})
	same(s, "size", s.stat("file").Size, 0)
}

// checkSparse: places that nobody wrote to take no room, read as zeros, and can be found and made.
func checkSparse(s *scene) {
	s.file("file", "")
	s.with("file", unix.O_RDWR, func(fd int) {
		_, err := unix.Pwrite(fd, bytes.Repeat([]byte("d"), 64<<10), 8*mib)
		s.is("write", err, nil)
		s.is("ftruncate", unix.Ftruncate(fd, 16*mib), nil)
		s.is("fsync", unix.Fsync(fd), nil)
		if st := s.stat("file"); st.Blocks*512 > mib {
			s.fault("a file of 16 MiB with 64 KiB in it takes %d bytes", st.Blocks*512)
		}
		s.seek(fd, 0, unix.SEEK_DATA, 8*mib)
		s.seek(fd, 0, unix.SEEK_HOLE, 0)
		s.seek(fd, 8*mib, unix.SEEK_HOLE, 8*mib+64<<10)
		_, err = unix.Seek(fd, 9*mib, unix.SEEK_DATA)
		s.is("no more data", err, unix.ENXIO)
		_, err = unix.Seek(fd, 17*mib, unix.SEEK_HOLE)
		s.is("behind the end", err, unix.ENXIO)
		s.is("punch", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8*mib, 32<<10), nil)
		buf := make([]byte, 64<<10)
		_, err = unix.Pread(fd, buf, 8*mib)
		s.is("read", err, nil)
		same(s, "content around the hole", string(buf), strings.Repeat("\x00", 32<<10)+strings.Repeat("d", 32<<10))
		same(s, "size after the hole", s.stat("file").Size, 16*mib)
	})
	s.file("full", "x")
	s.with("full", unix.O_RDWR, func(fd int) {
		s.is("fallocate", unix.Fallocate(fd, 0, 0, mib), nil)
		s.is("fallocate, the size kept", unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, mib, mib), nil)
		st := s.stat("full")
		same(s, "size", st.Size, mib)
		if st.Blocks*512 < mib {
			s.fault("what was allocated takes %d bytes", st.Blocks*512)
		}
		s.is("no length", unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
	})
	s.with("full", unix.O_RDONLY, func(fd int) { s.is("open for reading", unix.Fallocate(fd, 0, 0, mib), unix.EBADF) })
}

func (s *scene) seek(fd int, from int64, whence int, want int64) {
	got, err := unix.Seek(fd, from, whence)
	s.is("seek", err, nil)
	if got != want {
		s.fault("seek from %d by %d: %d, want %d", from, whence, got, want)
	}
}

func checkCopy(s *scene) {
	content := strings.Repeat("0123456789abcdef", 3*mib/16) + "end"
	s.file("from", content)
	s.file("to", "")
	s.with("from", unix.O_RDONLY, func(from int) {
		s.with("to", unix.O_WRONLY, func(to int) {
			for total := 0; total < len(content); {
				n, err := unix.CopyFileRange(from, nil, to, nil, len(content)-total, 0)
				if s.is("copy_file_range", err, nil); err != nil || n == 0 {
					break
				}
				total += n
			}
		})
	})
	s.content("to", content)
	s.with("from", unix.O_RDONLY, func(from int) {
		s.with("sent", unix.O_CREAT|unix.O_WRONLY, func(to int) {
			for total := 0; total < len(content); {
				n, err := unix.Sendfile(to, from, nil, len(content)-total)
				if s.is("sendfile", err, nil); err != nil || n == 0 {
					break
				}
				total += n
			}
		})
	})
	s.content("sent", content)
}

func checkSync(s *scene) {
	for _, flag := range []int{0, unix.O_SYNC, unix.O_DSYNC, unix.O_DIRECT} {
		s.with("file", unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC|flag, func(fd int) {
			// Where O_DIRECT holds, memory, length and place are whole blocks.
			page, err := unix.Mmap(-1, 0, 8<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if s.is("memory", err, nil); err != nil {
				return
			}
			defer unix.Munmap(page) //nolint:errcheck // the program ends soon
			copy(page, strings.Repeat("s", len(page)))
			n, err := unix.Pwrite(fd, page, 0)
			s.is("write", err, nil)
			same(s, "bytes written", n, len(page))
			s.is("fsync", unix.Fsync(fd), nil)
			s.is("fdatasync", unix.Fdatasync(fd), nil)
		})
		s.content("file", strings.Repeat("s", 8<<10))
	}
	s.with(".", unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) {
		s.is("fsync of a folder", unix.Fsync(fd), nil)
		s.is("syncfs", unix.Syncfs(fd), nil)
	})
}

// checkStatfs: the figures are a disk's.
func checkStatfs(s *scene) {
	var st unix.Statfs_t
	s.is("statfs", unix.Statfs(s.dir, &st), nil)
	if st.Bsize < 512 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Namelen != 255 {
		s.fault("statfs: %+v", st)
	}
}

// checkReaddir: what a folder lists is what stat says, from the beginning and again.
func checkReaddir(s *scene) {
	s.folder("folder")
	s.file("file", "x")
	s.is("symlink", unix.Symlink("x", s.path("link")), nil)
	s.is("mkfifo", unix.Mkfifo(s.path("fifo"), 0o600), nil)
	d, err := os.Open(s.dir)
	if s.is("open", err, nil); err != nil {
		return
	}
	defer d.Close()
	for range 2 {
		entries, err := d.ReadDir(-1)
		s.is("readdir", err, nil)
		same(s, "entries", len(entries), 4)
		for _, e := range entries {
			info, err := os.Lstat(s.path(e.Name()))
			s.is("lstat "+e.Name(), err, nil)
			if err == nil && info.Mode().Type() != e.Type() {
				s.fault("%s is %v, listed as %v", e.Name(), info.Mode().Type(), e.Type())
			}
		}
		_, err = d.Seek(0, 0)
		s.is("rewind", err, nil)
	}
}

// entries are how many a folder has that names go from while it is read. Who started the program may have
// made them, by manyName: in a guest that is slow.
const entries = 10_000

func manyName(i int) string { return fmt.Sprintf("entry-%05d", i) }

// checkMany: what stays is listed once, whatever goes meanwhile.
func checkMany(s *scene) {
	for i := range entries {
		if _, err := os.Lstat(s.path(manyName(0))); i == 0 && err == nil {
			break
		}
		s.file(manyName(i), "")
	}
	d, err := os.Open(s.dir)
	if s.is("open", err, nil); err != nil {
		return
	}
	defer d.Close()
	listed := map[string]int{}
	const step = 4 // how many stay for one that goes, and one
	for gone := 0; ; {
		names, err := d.Readdirnames(500)
		for _, name := range names {
			listed[name]++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if s.is("readdir", err, nil); err != nil {
			return
		}
		for range 100 { // what was listed, and what was not yet
			s.is("unlink", unix.Unlink(s.path(manyName(gone))), nil)
			gone += step
		}
	}
	for i := range entries {
		if n := listed[manyName(i)]; n != 1 && (i%step != 0 || n > 1) {
			s.fault("%s is listed %d times", manyName(i), n)
		}
	}
}
