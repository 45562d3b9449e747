package configs

import (
	"os"
	"runtime"

	"github.com/sbx-vm/sbx/machine"
)

// Host is what of this machine the defaults depend on.
type Host struct {
	CPUs     int
	Memory   machine.Bytes // 0 when it is not known
	Arch     string        // GOARCH
	OS       string        // GOOS
	UID, GID int
}

// CurrentHost asks this machine.
func CurrentHost() Host {
	return Host{CPUs: runtime.NumCPU(), Memory: hostMemory(), Arch: runtime.GOARCH, OS: runtime.GOOS, UID: os.Getuid(), GID: os.Getgid()}
}

// mode is how the workspace is shared unless somebody says: live where our file server runs.
func (h Host) mode() string {
	if h.OS == "darwin" {
		return machine.ModeSync
	}
	return machine.ModeMount
}

// cpus is min(4, host).
func (h Host) cpus() int { return max(1, min(4, h.CPUs)) }

// memory is 4 GiB, or a quarter of a host that has less than 16 GiB, in whole
// MiB, and never less than a guest needs to boot.
func (h Host) memory() machine.Bytes {
	if h.Memory <= 0 {
		return 4 * machine.GiB
	}
	quarter := h.Memory / 4 / machine.MiB * machine.MiB
	return max(minMemory, min(4*machine.GiB, quarter))
}
