package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// files are the descriptors of one start: our ends and the child's.
type files struct {
	fd    descriptors
	child []*os.File

	qmp, net, console net.Conn
}

// firstFD is where os/exec puts the first of ExtraFiles.
const firstFD = 3

func (f *files) give(file *os.File) int {
	f.child = append(f.child, file)
	return firstFD + len(f.child) - 1
}

func openFiles(c Config) (*files, error) {
	f := &files{}
	err := errors.Join(
		f.pair(&f.fd.QMP, &f.qmp),
		f.pair(&f.fd.Console, &f.console),
		f.load(&f.fd.Kernel, c.Machine.Kernel),
		f.load(&f.fd.Initrd, c.Machine.Initrd),
	)
	if c.Machine.MAC != "" {
		err = errors.Join(err, f.pair(&f.fd.Net, &f.net))
	}
	if c.Machine.Share != "" {
		f.fd.Share = f.give(c.Share)
	}
	if c.Machine.SSHPort != "" {
		err = errors.Join(err, f.listen(&f.fd.SSH, c.SSHSocket))
	}
	for _, d := range c.Machine.Disks {
		err = errors.Join(err, f.disk(d))
	}
	if err != nil {
		f.closeChild()
		f.closeOurs()
		return nil, err
	}
	return f, nil
}

func (f *files) disk(d Disk) error {
	mode := os.O_RDWR
	if d.ReadOnly {
		mode = os.O_RDONLY
	}
	var number, backing int
	err := f.open(&number, d.Path, mode)
	if d.Backing != "" {
		err = errors.Join(err, f.open(&backing, d.Backing, os.O_RDONLY))
	}
	f.fd.Disks, f.fd.Backings = append(f.fd.Disks, number), append(f.fd.Backings, backing)
	return err
}

func (f *files) open(number *int, path string, mode int) error {
	file, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	*number = f.give(file)
	return nil
}

// load hands over a file that QEMU opens once more by its descriptor's path, which
// asks for permission again: the initramfs holds the guest's key and is nobody
// else's to read, also not the uid's that QEMU runs under.
func (f *files) load(number *int, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	copied, err := anonymous(file)
	if err != nil {
		file.Close()
		return fmt.Errorf("copy %q into memory: %w", path, err)
	}
	*number = f.give(copied)
	return nil
}

// pair makes a socket pair: one end for QEMU, one as a connection for us.
func (f *files) pair(number *int, ours *net.Conn) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	// Room for some of the guest's largest frames. A smaller buffer is slower, nothing else.
	_ = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	mine := os.NewFile(uintptr(fds[1]), "qemu")
	defer mine.Close() // FileConn has a duplicate
	*number = f.give(os.NewFile(uintptr(fds[0]), "qemu"))
	*ours, err = net.FileConn(mine)
	return err
}

// listen binds the socket here, where the path is ours, and hands it over.
func (f *files) listen(number *int, path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the guest's SSH port: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer func() { _ = l.Close() }() // the file below is a duplicate
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	file, err := l.File()
	if err != nil {
		return err
	}
	*number = f.give(file)
	return nil
}

func (f *files) closeChild() {
	for _, file := range f.child {
		file.Close()
	}
	f.child = nil
}

func (f *files) closeOurs() {
	for _, c := range []net.Conn{f.qmp, f.net, f.console} {
		if c != nil {
			c.Close()
		}
	}
}
