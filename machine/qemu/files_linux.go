package qemu

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// anonymous copies file into sealed memory without a name or an owner's
// permissions, and closes it on success.
func anonymous(file *os.File) (*os.File, error) {
	fd, err := unix.MemfdCreate("sbx", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	memory := os.NewFile(uintptr(fd), "memfd:sbx")
	_, err = io.Copy(memory, file)
	if err == nil {
		_, err = unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	return memory, file.Close()
}
