package qemu

import "os"

// anonymous gives the file itself: QEMU runs as the user there, and macOS has no
// memory files.
func anonymous(file *os.File) (*os.File, error) { return file, nil }
