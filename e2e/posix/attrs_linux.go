package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func checkChmod(s *scene) {
	file, folder := s.file("file", "x"), s.folder("folder")
	for _, mode := range []uint32{0o600, 0o755, 0o444, 0o000, 0o777, 0o640} {
		s.is("chmod", unix.Chmod(file, mode), nil)
		same(s, "mode of the file", s.stat("file").Mode, unix.S_IFREG|mode)
		s.is("chmod", unix.Chmod(folder, mode), nil)
		same(s, "mode of the folder", s.stat("folder").Mode, unix.S_IFDIR|mode)
	}
	s.is("sticky", unix.Chmod(folder, 0o1777), nil)
	same(s, "mode of the folder", s.stat("folder").Mode, unix.S_IFDIR|0o1777)
	s.is("chmod of nothing", unix.Chmod(s.path("none"), 0o600), unix.ENOENT)
	s.is("through a link", errors.Join(unix.Symlink("file", s.path("link")), unix.Chmod(s.path("link"), 0o611)), nil)
	same(s, "mode behind the link", s.stat("file").Mode, unix.S_IFREG|0o611)
	// Rights that a file brings along stay out of the share.
	s.is("setuid", unix.Chmod(file, 0o4755), nil)
	want := uint32(unix.S_IFREG | 0o4755)
	if s.share {
		want = unix.S_IFREG | 0o755
	}
	same(s, "mode with setuid", s.stat("file").Mode, want)
	unix.Umask(0o027)
	s.with("masked", unix.O_CREAT|unix.O_WRONLY, func(int) {})
	s.is("mkdir", unix.Mkdir(s.path("maskeddir"), 0o777), nil)
	unix.Umask(0)
	same(s, "mode under a umask", s.stat("masked").Mode, unix.S_IFREG|0o640)
	same(s, "mode under a umask", s.stat("maskeddir").Mode, unix.S_IFDIR|0o750)
}

// checkChown: on the share all that is made belongs to one user, whoever makes it, and stays so; root hears no
// refusal.
func checkChown(s *scene) {
	file := s.file("file", "x")
	st := s.stat("file")
	s.is("to whom it belongs", unix.Chown(file, int(st.Uid), int(st.Gid)), nil)
	s.is("to nobody in particular", unix.Chown(file, -1, -1), nil)
	if !s.share && !s.root {
		same(s, "owner", st.Uid, uint32(os.Geteuid()))
	}
	want := error(unix.EPERM)
	if s.root {
		want = nil
	}
	s.is("to another user", unix.Chown(file, 12345, -1), want)
	s.is("to another group", unix.Chown(file, -1, 12345), want)
	s.is("link", unix.Symlink("file", s.path("link")), nil)
	s.is("lchown", unix.Lchown(s.path("link"), 12345, -1), want)
	if want != nil || s.share {
		after := s.stat("file")
		same(s, "owner", after.Uid, st.Uid)
		same(s, "group", after.Gid, st.Gid)
	}
}

func checkTimes(s *scene) {
	file := s.file("file", "x")
	s.is("link", unix.Symlink("none", s.path("link")), nil)
	s.folder("folder")
	set := func(name string, a, m unix.Timespec) {
		s.is("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, s.path(name), []unix.Timespec{a, m}, unix.AT_SYMLINK_NOFOLLOW), nil)
	}
	omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
	for _, name := range []string{"file", "link", "folder"} {
		a, m := unix.Timespec{Sec: 1e9, Nsec: 123456789}, unix.Timespec{Sec: -1e8, Nsec: 987654321} // 2001 and 1966
		set(name, a, m)
		st := s.stat(name)
		same(s, "atime of "+name, st.Atim, a)
		same(s, "mtime of "+name, st.Mtim, m)
		set(name, omit, unix.Timespec{Sec: 5e9}) // 2128
		st = s.stat(name)
		same(s, "atime left as it was", st.Atim, a)
		same(s, "mtime of "+name, st.Mtim.Sec, 5e9)
		set(name, now, omit)
		if st = s.stat(name); st.Atim.Sec < 1.5e9 || st.Mtim.Sec != 5e9 {
			s.fault("%s after UTIME_NOW: %v, %v", name, st.Atim, st.Mtim)
		}
	}
	s.is("utimensat of nothing", unix.UtimesNanoAt(unix.AT_FDCWD, s.path("none"), []unix.Timespec{now, now}, 0), unix.ENOENT)
	// What is written or made changes the time.
	old := unix.Timespec{Sec: 1e9}
	for what, change := range map[string]func(){
		"write":    func() { s.with("file", unix.O_WRONLY, func(fd int) { s.put(fd, "y") }) },
		"truncate": func() { s.is("truncate", unix.Truncate(file, 0), nil) },
		"O_TRUNC":  func() { s.file("file", "") },
	} {
		s.file("file", "x")
		set("file", old, old)
		change()
		if st := s.stat("file"); st.Mtim.Sec == old.Sec {
			s.fault("%s left the time of the change", what)
		}
	}
	set("folder", old, old)
	s.file("folder/new", "")
	if st := s.stat("folder"); st.Mtim.Sec == old.Sec {
		s.fault("a new name left the folder's time")
	}
}

func checkXattr(s *scene) {
	file := s.file("file", "x")
	big := bytes.Repeat([]byte("v"), 2000)
	s.is("set", unix.Setxattr(file, "user.a", []byte("one"), 0), nil)
	s.is("set a big one", unix.Setxattr(file, "user.b", big, 0), nil)
	s.is("create what is there", unix.Setxattr(file, "user.a", nil, unix.XATTR_CREATE), unix.EEXIST)
	s.is("replace what is not", unix.Setxattr(file, "user.c", nil, unix.XATTR_REPLACE), unix.ENODATA)
	s.is("replace", unix.Setxattr(file, "user.a", []byte("two"), unix.XATTR_REPLACE), nil)
	buf := make([]byte, 4096)
	for name, want := range map[string]string{"user.a": "two", "user.b": string(big)} {
		n, err := unix.Getxattr(file, name, buf)
		s.is("get "+name, err, nil)
		same(s, name, string(buf[:max(n, 0)]), want)
		n, err = unix.Getxattr(file, name, nil)
		s.is("size of "+name, err, nil)
		same(s, "size of "+name, n, len(want))
	}
	_, err := unix.Getxattr(file, "user.b", buf[:10])
	s.is("too little room", err, unix.ERANGE)
	_, err = unix.Getxattr(file, "user.none", buf)
	s.is("get what is not there", err, unix.ENODATA)
	n, err := unix.Listxattr(file, buf)
	s.is("list", err, nil)
	listed := strings.Split(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00")
	for _, name := range []string{"user.a", "user.b"} {
		if !slices.Contains(listed, name) {
			s.fault("%s is not in %q", name, listed)
		}
	}
	s.is("remove", unix.Removexattr(file, "user.a"), nil)
	s.is("remove again", unix.Removexattr(file, "user.a"), unix.ENODATA)
	if s.share { // rights on the host are not the guest's to give
		for _, name := range []string{"security.capability", "trusted.x"} {
			if err := unix.Setxattr(file, name, []byte("x"), 0); err == nil {
				s.fault("%s was set", name)
			}
		}
	}
}

// checkSpecial: FIFOs and sockets are the kernel's own, with a name in the folder; devices are nobody's.
func checkSpecial(s *scene) {
	fifo := s.path("fifo")
	s.is("mkfifo", unix.Mkfifo(fifo, 0o600), nil)
	same(s, "type of the FIFO", s.stat("fifo").Mode, unix.S_IFIFO|0o600)
	s.open("no reader", fifo, unix.O_WRONLY|unix.O_NONBLOCK, unix.ENXIO)
	s.with("fifo", unix.O_RDONLY|unix.O_NONBLOCK, func(in int) {
		s.with("fifo", unix.O_WRONLY, func(out int) {
			s.put(out, "through")
			buf := make([]byte, 16)
			n, err := unix.Read(in, buf)
			s.is("read", err, nil)
			same(s, "what came through", string(buf[:max(n, 0)]), "through")
		})
	})
	s.socket()
	for what, mode := range map[string]uint32{"character": unix.S_IFCHR, "block": unix.S_IFBLK} {
		err := unix.Mknod(s.path(what), mode|0o600, int(unix.Mkdev(1, 3)))
		if s.share || !s.root {
			s.is("a "+what+" device", err, unix.EPERM)
			s.gone(what)
		}
	}
}

func (s *scene) socket() {
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if s.is("socket", err, nil); err != nil {
		return
	}
	defer unix.Close(listener)
	// A socket's address has 108 bytes: it is named from the folder.
	defer s.in(s.dir)()
	s.is("bind", unix.Bind(listener, &unix.SockaddrUnix{Name: "sock"}), nil)
	s.is("listen", unix.Listen(listener, 1), nil)
	same(s, "type of the socket", s.stat("sock").Mode&unix.S_IFMT, unix.S_IFSOCK)
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if s.is("socket", err, nil); err != nil {
		return
	}
	defer unix.Close(client)
	s.is("connect", unix.Connect(client, &unix.SockaddrUnix{Name: "sock"}), nil)
	s.open("open a socket", s.path("sock"), unix.O_RDONLY, unix.ENXIO)
}

// in changes the folder; what it gives changes back.
func (s *scene) in(dir string) func() {
	before, err := os.Getwd()
	if err == nil {
		err = os.Chdir(dir)
	}
	s.is("chdir", err, nil)
	return func() { s.is("chdir back", os.Chdir(before), nil) }
}
