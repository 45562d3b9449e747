package qemu

import (
	"errors"

	"golang.org/x/sys/unix"
)

const hardwareAccel = "hvf"

// hardware tells why the Hypervisor framework cannot be used.
func hardware() error {
	supported, err := unix.SysctlUint32("kern.hv_support")
	if err != nil {
		return err
	}
	if supported == 0 {
		return errors.New("this Mac has no Hypervisor framework (kern.hv_support is 0)")
	}
	return nil
}

// accelDevices are none: the Hypervisor framework is no file.
func accelDevices(string) []string { return nil }

// accelGroups is none: the Hypervisor framework asks for no group.
func accelGroups(string) []int { return nil }
