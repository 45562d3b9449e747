// Package confine takes a child's rights away before its program begins.
//
// A child of the supervisor (QEMU, the file server) reads bytes that a hostile
// guest wrote. It is started as `sbx __confine PROFILE -- PROGRAM ARGS…`: that step
// gives up what the profile does not grant and then becomes the program, in the
// same process, so that pid, descriptors and parent stay what the supervisor
// sees. What can be taken depends on the system; what cannot be taken on Linux is
// an error, except Landlock, which older kernels lack ([Landlock] tells).
package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
)

// Subcommand is the hidden command of sbx that must call [Run].
const Subcommand = "__confine"

// Profile is what the child keeps.
type Profile struct {
	// UID and GID to become, when the step runs as root; 0 keeps root's, which then
	// has no capability: it owns root's files and nothing more.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
	// Groups to be a member of besides, when the step runs as root: that of /dev/kvm.
	// All others go.
	Groups []int `json:"groups,omitempty"`
	// Read and Write are files and folders that the child may open, beneath Landlock.
	// Descriptors that it inherits need no mention. Exec are programs it may become.
	Read  []string `json:"read,omitempty"`
	Write []string `json:"write,omitempty"`
	Exec  []string `json:"exec,omitempty"`
	// Devices may be opened for reading, writing and ioctl: /dev/kvm.
	Devices []string `json:"devices,omitempty"`
	// Namespaces leaves the program the right to confine itself to folders, by namespaces, in place of Landlock, which
	// would forbid it to mount.
	Namespaces bool `json:"namespaces,omitempty"`
	// NoFiles limits open descriptors, 0 leaves the limit.
	NoFiles uint64 `json:"no_files,omitempty"`
}

// Command builds the child. self is the path of the sbx binary.
func Command(self string, p Profile, program string, args ...string) (*exec.Cmd, error) {
	profile, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	argv := append([]string{Subcommand, string(profile), "--", program}, args...)
	cmd := exec.Command(self, argv...) //nolint:noctx // the child outlives the request that starts it
	cmd.SysProcAttr = dieWithParent()
	return cmd, nil
}

// Run is the step itself: args are PROFILE, "--", PROGRAM and its arguments. It
// returns only to say why the program could not be started confined.
func Run(args []string) error {
	if len(args) < 3 || args[1] != "--" {
		return errors.New("confine: wants PROFILE -- PROGRAM [ARGS…]")
	}
	var p Profile
	if err := json.Unmarshal([]byte(args[0]), &p); err != nil {
		return fmt.Errorf("confine: profile: %w", err)
	}
	program, err := exec.LookPath(args[2])
	if err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	p.Exec = append(p.Exec, program)
	if err := become(p, program, args[2:]); err != nil {
		return fmt.Errorf("confine %q: %w", program, err)
	}
	return nil
}
