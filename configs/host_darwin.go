package configs

import (
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine"
)

func hostMemory() machine.Bytes {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return machine.Bytes(n)
}
