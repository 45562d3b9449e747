//go:build !linux

package confine

// Seal is of Linux: no file server runs elsewhere.
func Seal() error { return nil }
