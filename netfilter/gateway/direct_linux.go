package gateway

import "golang.org/x/sys/unix"

// pending is how many bytes a TCP socket can give now (tcp(7), SIOCINQ).
func pending(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }
