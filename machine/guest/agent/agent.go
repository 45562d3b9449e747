// Package agent carries the guest agent inside sbx: the static Linux binary of
// cmd/sbx-guest for each guest architecture, put beside this file by `make build`
// (about 8 MB each, see the Makefile). The tree also compiles without them, for
// editors and linters: [Binary] then says what is missing.
package agent

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed sbx-guest*
var binaries embed.FS

// ErrNotBuilt means that this sbx was built without the agent of that
// architecture.
var ErrNotBuilt = errors.New("this sbx was built without the guest agent")

// Binary returns the guest agent for arch, a GOARCH name ("amd64", "arm64"). The
// bytes are the caller's own copy.
func Binary(arch string) ([]byte, error) {
	data, err := fs.ReadFile(binaries, "sbx-guest-"+arch)
	if err != nil {
		return nil, fmt.Errorf("%w for %q (build it with `make build`)", ErrNotBuilt, arch)
	}
	return data, nil
}
