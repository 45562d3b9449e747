package configs

import (
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine"
)

func hostMemory() machine.Bytes {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return machine.Bytes(info.Totalram * uint64(info.Unit))
}
