package cli

import "golang.org/x/sys/unix"

// checkVirtualization asks for the Hypervisor framework.
func checkVirtualization() check {
	supported, err := unix.SysctlUint32("kern.hv_support")
	if err != nil || supported == 0 {
		return check{Name: "hvf", Status: checkWarning, Detail: "this Mac has no Hypervisor framework: guests run under TCG, many times slower"}
	}
	return check{Name: "hvf", Status: checkOK, Detail: "the Hypervisor framework is there"}
}

// freeBytes is the room for this user on dir's file system.
func freeBytes(dir string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, err
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}
