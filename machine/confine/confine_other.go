//go:build !linux

package confine

import (
	"os"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Landlock tells the version of the kernel's Landlock, 0 where it has none.
func Landlock() int { return 0 }

func become(_ Profile, program string, argv []string) error {
	return syscall.Exec(program, argv, os.Environ())
}
