// Package e2e holds tests that start sbx as a user would, against the real QEMU and
// the real guest image. They run with -vm and the binary named by -sbx, and show
// what the project promises, a line of it per test. They share one sandbox where
// they can, because a start takes seconds without hardware virtualization.
//
// The same command line and supervisor against a stand-in QEMU, in milliseconds and
// always, are the scripts of cmd/internal/cli/testdata/script. They stand there
// because they put the package's own Main into the test binary.
package e2e
