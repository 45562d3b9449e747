// Package machine says what a sandbox is: [Spec] is what was asked for, [Status]
// is how it stands. The packages below it do the work: store keeps its files,
// qemu turns a Spec into a virtual machine, supervisor runs the parts of one
// sandbox, control is how the command line talks to the supervisor, guest is
// what runs inside.
package machine

import (
	"github.com/sbx-vm/sbx/netfilter"
)

// SpecVersion is the version of the Spec's JSON form on disk. A reader refuses
// a higher one: an older sbx must not misread a newer sandbox.
const SpecVersion = 1

// Bytes is a size in bytes.
type Bytes int64

// Sizes that defaults and limits are written in.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// Spec is what was asked for: one sandbox, fully resolved (no defaults left to
// fill, no relative paths). It is stored as JSON beside the sandbox's disk.
type Spec struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Project   string            `json:"project"` // absolute path of the host folder that the sandbox belongs to
	Arch      string            `json:"arch"`    // GOARCH of the guest: amd64 or arm64
	Image     string            `json:"image"`   // content ID of the guest image, see package image
	Resources Resources         `json:"resources"`
	Workspace Workspace         `json:"workspace"`
	Network   netfilter.Spec    `json:"network"`
	Ports     []Port            `json:"ports,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	User      User              `json:"user"`
	Docker    bool              `json:"docker"`
	// Secrets are where the values of Network.Secrets come from besides the store, from the user's own
	// file alone: Command is run on the host. Values are never part of a Spec.
	Secrets []SecretSource `json:"secrets,omitempty"`
}

// SecretSource is where a secret's value comes from: a variable of the user's environment, or the
// standard output of a command of the user's.
type SecretSource struct {
	Name    string   `json:"name"`
	Env     string   `json:"env,omitempty"`
	Command []string `json:"command,omitempty"`
}

// Resources is the size of the machine. CPUs is a count, the others bytes.
type Resources struct {
	CPUs   int   `json:"cpus"`
	Memory Bytes `json:"memory"`
	Disk   Bytes `json:"disk"`
}

// Workspace modes.
const (
	ModeMount  = "mount"  // the guest works on the folder itself
	ModeSync   = "sync"   // on a copy, both are kept the same
	ModeReview = "review" // on a copy whose changes wait for the user
)

// Servers of mode mount.
const (
	ServerOwn       = "sbx"
	ServerVirtiofsd = "virtiofsd"
)

// Values of Workspace.Reserve.
const (
	DefaultReserve       = GiB
	NoReserve      Bytes = -1
)

// Workspace is the project's folder in the guest and the mounts beside it.
type Workspace struct {
	Mode    string   `json:"mode"`
	Target  string   `json:"target"` // absolute path in the guest; the source is Spec.Project
	Mounts  []Mount  `json:"mounts,omitempty"`
	Protect []string `json:"protect,omitempty"`
	Mask    []string `json:"mask,omitempty"`
	// Ignore are rules as in a .gitignore for what modes sync and review leave alone.
	Ignore []string `json:"ignore,omitempty"`
	// Reserve stays free on the host's disk, whatever the guest writes to its folders; 0 is DefaultReserve, or a tenth of a
	// small file system.
	Reserve Bytes `json:"reserve,omitempty"`
	// Server of mode mount; empty is our own.
	Server string `json:"server,omitempty"`
}

// Mount is one more host folder shared with the guest. Both paths are absolute.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readonly"`
}

// Port publishes a TCP port of the guest on an address of the host.
type Port struct {
	Host  string `json:"host"`  // literal address to listen on, 127.0.0.1 unless told otherwise
	Port  uint16 `json:"port"`  // host port, 0 for any free one
	Guest uint16 `json:"guest"` // guest port
}

// User is the guest account that commands run as. UID and GID are the host
// user's, or 1000 where that is root.
type User struct {
	Name string `json:"name"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
}
