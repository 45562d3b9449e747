// Command sbx gives a coding agent a computer of its own; see package cli.
package main

import (
	"context"
	"os"

	"github.com/sbx-vm/sbx/cmd/internal/cli"
)

// version is set by the Makefile with -ldflags -X; see cli.System for what stands in for it.
var version string

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.System(version))) }
