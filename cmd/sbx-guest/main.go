//go:build linux

// Command sbx-guest is what runs inside a sandbox: its first process.
package main

import (
	"os"

	"github.com/sbx-vm/sbx/machine/guest/initd"
)

func main() { os.Exit(initd.Main(os.Args)) }
