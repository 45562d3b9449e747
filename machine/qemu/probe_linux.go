package qemu

import (
	"os"
	"runtime"
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
