package qemu

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const hardwareAccel = "kvm"

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
	return openable("/dev/kvm")
}

// accelGroups is the group that may open /dev/kvm: QEMU under a uid of its own is
// a member of nothing else.
func accelGroups(accel string) []int {
	var st unix.Stat_t
	if accel != hardwareAccel || unix.Stat("/dev/kvm", &st) != nil || st.Gid == 0 {
		return nil
	}
	return []int{int(st.Gid)}
}
