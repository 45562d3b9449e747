package qemu

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	hardwareAccel = "kvm"
	kvmDevice     = "/dev/kvm"
)

// hardware tells why KVM cannot be used.
func hardware() error {
	if runtime.GOARCH == "amd64" {
		cpuinfo, err := os.ReadFile("/proc/cpuinfo")
		if err != nil {
			return err
		}
		if err := x86Virtualization(string(cpuinfo)); err != nil {
			return err
		}
	}
	return openable(kvmDevice)
}

// accelDevices are those that QEMU opens by their names.
func accelDevices(accel string) []string {
	if accel != hardwareAccel {
		return nil
	}
	return []string{kvmDevice}
}

// accelGroups is the group that may open /dev/kvm: QEMU under a uid of its own is
// a member of nothing else.
func accelGroups(accel string) []int {
	var st unix.Stat_t
	if accel != hardwareAccel || unix.Stat(kvmDevice, &st) != nil || st.Gid == 0 {
		return nil
	}
	return []int{int(st.Gid)}
}
