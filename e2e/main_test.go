package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var (
	vm      = flag.Bool("vm", false, "boot real guests")
	sbxPath = flag.String("sbx", "", "the sbx to test, for -vm")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *vm {
		path, err := filepath.Abs(*sbxPath)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil || *sbxPath == "" {
			fmt.Fprintf(os.Stderr, "-vm needs -sbx PATH (make build): %q: %v\n", *sbxPath, err)
			os.Exit(2)
		}
		*sbxPath = path
	}
	os.Exit(m.Run())
}
