package qemu

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/sbx-vm/sbx/machine/confine"
)

// TestMain lets the test binary stand for sbx in the confining step.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == confine.Subcommand {
		fmt.Fprintln(os.Stderr, confine.Run(os.Args[2:]))
		os.Exit(125)
	}
	goleak.VerifyTestMain(m)
}
