package gateway

import "golang.org/x/sys/unix"

func pending(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NREAD) }
