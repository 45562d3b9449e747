package main

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

func checkMkdir(s *scene) {
	file, full := s.file("file", "x"), s.folder("full")
	s.file("full/x", "x")
	s.is("a link", unix.Symlink("nowhere", s.path("link")), nil)
	for path, want := range map[string]error{
		s.path("new"): nil, full: unix.EEXIST, file: unix.EEXIST, s.path("link"): unix.EEXIST,
		s.path("none/new"): unix.ENOENT, s.path("file/new"): unix.ENOTDIR, s.path("link/new"): unix.ENOENT,
	} {
		s.is("mkdir "+path, unix.Mkdir(path, 0o777), want)
	}
	for path, want := range map[string]error{
		s.path("new"): nil, full: unix.ENOTEMPTY, file: unix.ENOTDIR, s.path("link"): unix.ENOTDIR, s.path("none"): unix.ENOENT,
		full + "/.": unix.EINVAL, full + "/..": unix.ENOTEMPTY, s.path("file/x"): unix.ENOTDIR,
	} {
		s.is("rmdir "+path, unix.Rmdir(path), want)
	}
	for path, want := range map[string]error{full: unix.EISDIR, s.path("none"): unix.ENOENT, s.path("file/x"): unix.ENOTDIR, s.path("link"): nil} {
		s.is("unlink "+path, unix.Unlink(path), want)
	}
	s.is("unlink", unix.Unlink(file), nil)
	before := s.stat("full").Nlink
	s.folder("full/sub")
	same(s, "links of a folder with one more in it", s.stat("full").Nlink, before+1)
}

func checkLongNames(s *scene) {
	longest, tooLong := strings.Repeat("n", 255), s.path(strings.Repeat("n", 256))
	file := s.file(longest, "x")
	s.content(longest, "x")
	s.is("unlink", unix.Unlink(file), nil)
	umlauts := strings.Repeat("ü", 127)
	s.file(umlauts, "y")
	s.content(umlauts, "y")
	s.file("short", "x")
	var st unix.Stat_t
	s.open("open", tooLong, unix.O_CREAT|unix.O_WRONLY, unix.ENAMETOOLONG)
	for what, err := range map[string]error{
		"mkdir": unix.Mkdir(tooLong, 0o777), "stat": unix.Stat(tooLong, &st), "symlink": unix.Symlink("x", tooLong),
		"link": unix.Link(s.path("short"), tooLong), "rename": unix.Rename(s.path("short"), tooLong),
		"mknod": unix.Mknod(tooLong, unix.S_IFREG|0o666, 0), "a path of 4097": unix.Mkdir(strings.Repeat("/x", 2049), 0o777),
	} {
		s.is(what, err, unix.ENAMETOOLONG)
	}
	s.file("odd \n\t\x7f\xff name", "z")
	s.content("odd \n\t\x7f\xff name", "z")
}

func checkLink(s *scene) {
	file, folder := s.file("file", "one"), s.folder("folder")
	s.is("link", unix.Link(file, s.path("other")), nil)
	a, b := s.stat("file"), s.stat("other")
	same(s, "inode of the second name", b.Ino, a.Ino)
	same(s, "links", b.Nlink, 2)
	s.with("other", unix.O_WRONLY|unix.O_APPEND, func(fd int) { s.put(fd, " two") })
	s.content("file", "one two")
	s.is("link over a name", unix.Link(file, s.path("other")), unix.EEXIST)
	s.is("link of a folder", unix.Link(folder, s.path("third")), unix.EPERM)
	s.is("link of nothing", unix.Link(s.path("none"), s.path("third")), unix.ENOENT)
	s.is("link in a file", unix.Link(file, s.path("file/x")), unix.ENOTDIR)
	s.is("unlink", unix.Unlink(file), nil)
	s.content("other", "one two")
	same(s, "links after unlink", s.stat("other").Nlink, 1)
	s.is("symlink", unix.Symlink("other", s.path("soft")), nil)
	s.is("link of a symlink", unix.Link(s.path("soft"), s.path("soft2")), nil)
	same(s, "inode of the symlink's second name", s.stat("soft2").Ino, s.stat("soft").Ino)
}

func checkSymlink(s *scene) {
	s.file("file", "x")
	s.folder("folder")
	s.file("folder/in", "y")
	buf := make([]byte, unix.PathMax)
	for name, target := range map[string]string{
		"rel": "file", "abs": s.path("file"), "dir": "folder", "lost": "none/at all", "long": strings.Repeat("a", 4095), "odd": "new\nline\xff",
	} {
		s.is("symlink "+name, unix.Symlink(target, s.path(name)), nil)
		n, err := unix.Readlink(s.path(name), buf)
		s.is("readlink "+name, err, nil)
		same(s, "target of "+name, string(buf[:max(n, 0)]), target)
		st := s.stat(name)
		same(s, "size of "+name, st.Size, int64(len(target)))
		same(s, "type of "+name, st.Mode&unix.S_IFMT, unix.S_IFLNK)
	}
	s.content("rel", "x")
	s.content("abs", "x")
	s.content("dir/in", "y")
	s.open("a dangling one", s.path("lost"), unix.O_RDONLY, unix.ENOENT)
	s.is("symlink to nothing", unix.Symlink("", s.path("empty")), unix.ENOENT)
	s.is("symlink over a name", unix.Symlink("x", s.path("file")), unix.EEXIST)
	s.is("a target of 4096", unix.Symlink(strings.Repeat("a", 4096), s.path("l")), unix.ENAMETOOLONG)
	_, err := unix.Readlink(s.path("file"), buf)
	s.is("readlink of a file", err, unix.EINVAL)
}

func checkLoops(s *scene) {
	s.is("a to b", unix.Symlink("b", s.path("a")), nil)
	s.is("b to a", unix.Symlink("a", s.path("b")), nil)
	s.is("self", unix.Symlink("self/x", s.path("self")), nil)
	for _, name := range []string{"a", "b/x", "self", "self/y"} {
		s.open("open "+name, s.path(name), unix.O_RDONLY, unix.ELOOP)
		s.is("chmod "+name, unix.Chmod(s.path(name), 0o600), unix.ELOOP)
	}
	s.file("file", "x")
	s.is("link", unix.Symlink("file", s.path("link")), nil)
	s.open("O_NOFOLLOW", s.path("link"), unix.O_RDONLY|unix.O_NOFOLLOW, unix.ELOOP)
}

func checkRename(s *scene) {
	file, other := s.file("file", "one"), s.file("other", "two")
	empty, full, folder := s.folder("empty"), s.folder("full"), s.folder("folder")
	s.file("full/x", "x")
	s.file("folder/in", "in")
	ino := s.stat("file").Ino
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{file, empty, unix.EISDIR}, {empty, file, unix.ENOTDIR}, {folder, full, unix.ENOTEMPTY}, {folder, s.path("folder/sub"), unix.EINVAL},
		{s.path("none"), file, unix.ENOENT}, {file, s.path("none/x"), unix.ENOENT}, {file, s.path("other/x"), unix.ENOTDIR},
		{folder + "/.", s.path("dot"), unix.EBUSY}, {file, other, nil}, {folder, empty, nil}, {other, other, nil},
	} {
		err := unix.Rename(c.from, c.to)
		if errors.Is(c.want, unix.ENOTEMPTY) && errors.Is(err, unix.EEXIST) {
			continue // POSIX lets both
		}
		s.is("rename "+c.from+" to "+c.to, err, c.want)
	}
	s.content("other", "one")
	s.content("empty/in", "in")
	s.gone("file")
	s.gone("folder")
	same(s, "inode after the rename", s.stat("other").Ino, ino)
	s.is("link", unix.Link(other, s.path("twin")), nil)
	s.is("rename to another name of the same file", unix.Rename(other, s.path("twin")), nil)
	s.content("other", "one") // both stay
	s.with("other", unix.O_RDWR, func(fd int) {
		s.is("rename an open file", unix.Rename(other, s.path("moved")), nil)
		s.put(fd, "ONE")
	})
	s.content("moved", "ONE")
}

func checkRenameFlags(s *scene) {
	a, b := s.file("a", "a"), s.file("b", "b")
	folder := s.folder("folder")
	s.file("folder/in", "in")
	at := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	}
	s.is("NOREPLACE over a file", at(a, b, unix.RENAME_NOREPLACE), unix.EEXIST)
	s.is("NOREPLACE over a folder", at(a, folder, unix.RENAME_NOREPLACE), unix.EEXIST)
	s.is("NOREPLACE", at(a, s.path("c"), unix.RENAME_NOREPLACE), nil)
	s.content("c", "a")
	s.is("EXCHANGE with nothing", at(b, s.path("none"), unix.RENAME_EXCHANGE), unix.ENOENT)
	s.is("EXCHANGE", at(s.path("c"), b, unix.RENAME_EXCHANGE), nil)
	s.content("b", "a")
	s.content("c", "b")
	s.is("EXCHANGE of file and folder", at(b, folder, unix.RENAME_EXCHANGE), nil)
	s.content("folder", "a")
	s.content("b/in", "in")
	s.is("both", at(b, s.path("c"), unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), unix.EINVAL)
}
