package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func checkOpen(s *scene) {
	file, folder := s.file("file", "12345"), s.folder("folder")
	s.is("link", unix.Symlink("none", s.path("dangling")), nil)
	for _, c := range []struct {
		path  string
		flags int
		want  error
	}{
		{file, unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, unix.EEXIST},
		{folder, unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, unix.EEXIST},
		{s.path("dangling"), unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, unix.EEXIST},
		{folder, unix.O_RDWR, unix.EISDIR},
		{folder, unix.O_CREAT | unix.O_RDONLY, unix.EISDIR},
		{folder, unix.O_RDONLY | unix.O_DIRECTORY, nil},
		{file, unix.O_RDONLY | unix.O_DIRECTORY, unix.ENOTDIR},
		{file + "/x", unix.O_RDONLY, unix.ENOTDIR},
		{s.path("none"), unix.O_RDONLY, unix.ENOENT},
		{s.path("none/x"), unix.O_CREAT | unix.O_WRONLY, unix.ENOENT},
		{s.path("new"), unix.O_CREAT | unix.O_EXCL | unix.O_RDONLY, nil},
	} {
		s.open(fmt.Sprintf("open %s with %#x", c.path, c.flags), c.path, c.flags, c.want)
	}
	s.with("file", unix.O_WRONLY|unix.O_TRUNC, func(int) {})
	s.content("file", "")
	s.with("dangling", unix.O_CREAT|unix.O_WRONLY, func(fd int) { s.put(fd, "through the link") })
	s.content("none", "through the link")
	// The mode of a new file does not bind the descriptor that it was made with.
	fd, err := unix.Open(s.path("readonly"), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o400)
	if s.is("make a read-only file", err, nil); err == nil {
		s.put(fd, "x")
		unix.Close(fd)
	}
	s.content("readonly", "x")
	s.with("file", unix.O_RDONLY, func(fd int) {
		_, err := unix.Write(fd, []byte("x"))
		s.is("write to what is open for reading", err, unix.EBADF)
	})
	s.with("file", unix.O_WRONLY, func(fd int) {
		_, err := unix.Read(fd, make([]byte, 1))
		s.is("read from what is open for writing", err, unix.EBADF)
	})
}

func checkAppend(s *scene) {
	s.file("file", "0")
	s.with("file", unix.O_WRONLY|unix.O_APPEND, func(a int) {
		s.with("file", unix.O_WRONLY|unix.O_APPEND, func(b int) {
			s.put(a, "1")
			s.put(b, "2")
			_, err := unix.Seek(a, 0, unix.SEEK_SET)
			s.is("seek", err, nil)
			s.put(a, "3")
		})
	})
	s.content("file", "0123")
	s.with("file", unix.O_RDWR, func(fd int) {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
		s.is("O_APPEND later", err, nil)
		s.put(fd, "4")
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
		s.is("O_APPEND no more", err, nil)
		_, err = unix.Pwrite(fd, []byte("x"), 0)
		s.is("pwrite", err, nil)
	})
	s.content("file", "x1234")
	s.with("file", unix.O_WRONLY|unix.O_APPEND, func(fd int) {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
		s.is("O_APPEND taken back", err, nil)
		_, err = unix.Pwrite(fd, []byte("y"), 1)
		s.is("pwrite", err, nil)
	})
	s.content("file", "xy234")
}

func checkTmpfile(s *scene) {
	for _, excl := range []int{0, unix.O_EXCL} {
		fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|excl, 0o640)
		if s.is("O_TMPFILE", err, nil); err != nil {
			return
		}
		s.put(fd, "no name yet")
		var st unix.Stat_t
		s.is("fstat", unix.Fstat(fd, &st), nil)
		same(s, "links of a file without a name", st.Nlink, 0)
		want := error(nil)
		if excl != 0 {
			want = unix.ENOENT
		}
		own := fmt.Sprintf("/proc/self/fd/%d", fd)
		s.is("linkat", unix.Linkat(unix.AT_FDCWD, own, unix.AT_FDCWD, s.path("named"), unix.AT_SYMLINK_FOLLOW), want)
		unix.Close(fd)
		if excl == 0 {
			s.content("named", "no name yet")
			same(s, "mode", s.stat("named").Mode, unix.S_IFREG|0o640)
			s.is("unlink", unix.Unlink(s.path("named")), nil)
		}
	}
	left, err := os.ReadDir(s.dir)
	s.is("list", err, nil)
	same(s, "names that are left", len(left), 0)
}

func checkUnlinked(s *scene) {
	file := s.file("file", "before")
	s.with("file", unix.O_RDWR, func(fd int) {
		s.is("unlink", unix.Unlink(file), nil)
		s.gone("file")
		s.file("file", "another")
		s.put(fd, "BEFORE and after")
		buf := make([]byte, 64)
		n, err := unix.Pread(fd, buf, 0)
		s.is("read", err, nil)
		same(s, "content without a name", string(buf[:max(n, 0)]), "BEFORE and after")
		var st unix.Stat_t
		s.is("fstat", unix.Fstat(fd, &st), nil)
		same(s, "links", st.Nlink, 0)
		s.is("fchmod", unix.Fchmod(fd, 0o600), nil)
		s.is("ftruncate", unix.Ftruncate(fd, 3), nil)
		s.is("fsync", unix.Fsync(fd), nil)
		s.is("fstat", unix.Fstat(fd, &st), nil)
		same(s, "size", st.Size, 3)
		again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if s.is("open again", err, nil); err == nil {
			n, err = unix.Read(again, buf)
			s.is("read", err, nil)
			same(s, "content again", string(buf[:max(n, 0)]), "BEF")
			unix.Close(again)
		}
	})
	s.content("file", "another")
	// What replaces an open file is another one.
	s.with("file", unix.O_RDONLY, func(fd int) {
		s.is("rename over it", unix.Rename(s.file("new", "newer"), file), nil)
		buf := make([]byte, 64)
		n, err := unix.Read(fd, buf)
		s.is("read", err, nil)
		same(s, "what was open", string(buf[:max(n, 0)]), "another")
	})
	s.content("file", "newer")
}

func checkRemovedFolder(s *scene) {
	folder := s.folder("folder")
	s.with("folder", unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) {
		s.is("rmdir", unix.Rmdir(folder), nil)
		s.is("mkdirat in what is gone", unix.Mkdirat(fd, "x", 0o777), unix.ENOENT)
		_, err := unix.Openat(fd, "x", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
		s.is("openat in what is gone", err, unix.ENOENT)
		var st unix.Stat_t
		s.is("fstat of what is gone", unix.Fstat(fd, &st), nil)
		s.folder("folder")
		s.is("mkdirat, with a new one of the name", unix.Mkdirat(fd, "x", 0o777), unix.ENOENT)
	})
}

func checkPermissions(s *scene) {
	file, folder := s.file("file", "x"), s.folder("folder")
	s.file("folder/in", "y")
	s.is("chmod", unix.Chmod(file, 0), nil)
	s.is("chmod", unix.Chmod(folder, 0o600), nil)
	if !s.root { // root may, on a disk; behind the share the host's user decides
		s.open("open without a right", file, unix.O_RDONLY, unix.EACCES)
		s.open("open below a folder without x", folder+"/in", unix.O_RDONLY, unix.EACCES)
		s.is("mkdir there", unix.Mkdir(folder+"/new", 0o777), unix.EACCES)
		s.is("access", unix.Access(file, unix.W_OK), unix.EACCES)
	}
	s.is("chmod back", unix.Chmod(file, 0o400), nil)
	s.is("chmod back", unix.Chmod(folder, 0o500), nil)
	s.content("file", "x")
	s.content("folder/in", "y")
	if !s.root {
		s.open("write to a read-only file", file, unix.O_WRONLY, unix.EACCES)
		s.is("unlink in a read-only folder", unix.Unlink(folder+"/in"), unix.EACCES)
	}
	s.is("chmod back", unix.Chmod(folder, 0o700), nil)
	s.is("access", unix.Access(file, unix.X_OK), unix.EACCES)
	s.is("chmod", unix.Chmod(file, 0o700), nil)
	s.is("access", unix.Access(file, unix.X_OK), nil)
}
