//go:build !amd64

package qemu

// measureTSC gives 0: this processor has no time stamp counter that an x86 guest
// would see.
func measureTSC() int { return 0 }
