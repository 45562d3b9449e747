package configs

import (
	"maps"
	"slices"

	"github.com/sbx-vm/sbx/machine"
)

// GuestUser is the account that commands run as in the guest.
const GuestUser = "agent"

// Spec gives the sandbox that the configuration asks for. The caller fills Image,
// the content ID, once the image is there.
func (c *Config) Spec() machine.Spec {
	user := machine.User{Name: GuestUser, UID: c.host.UID, GID: c.host.GID}
	if user.UID == 0 {
		user.UID, user.GID = 1000, 1000
	}
	w := c.Workspace
	w.Mounts, w.Protect = slices.Clone(w.Mounts), slices.Clone(w.Protect)
	return machine.Spec{
		Version: machine.SpecVersion, Name: c.Name, Project: c.Project, Arch: c.host.Arch,
		Resources: c.Resources, Workspace: w, Network: c.Network,
		Ports: slices.Clone(c.Ports), Env: maps.Clone(c.Env), User: user, Docker: c.Docker, Secrets: slices.Clone(c.Secrets),
	}
}
