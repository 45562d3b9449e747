package cli

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// checkVirtualization looks at what hardware virtualization needs on this system,
// whatever was chosen in the end.
func checkVirtualization() check {
	c := check{Name: "kvm"}
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case err == nil:
		file.Close()
		c.Status, c.Detail = checkOK, "/dev/kvm can be opened (whether guests run on it: accelerator)"
	case errors.Is(err, fs.ErrPermission):
		c.Status, c.Detail = checkWarning, "/dev/kvm is there and you may not open it: guests would run under TCG, many times slower"
		c.Fix = `sudo usermod -aG kvm "$USER", then log in again`
	case errors.Is(err, fs.ErrNotExist):
		c.Status, c.Detail = checkWarning, "no /dev/kvm: this machine has no hardware virtualization, or it is switched off"
		c.Fix = "switch on VT-x or AMD-V in the firmware (in a virtual machine: nested virtualization), then: sudo modprobe kvm-intel || sudo modprobe kvm-amd"
	default:
		c.Status, c.Detail = checkWarning, "/dev/kvm: "+err.Error()
	}
	return c
}

// freeBytes is the room for this user on dir's file system.
func freeBytes(dir string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, err
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}
