// Package boot is what the host tells the guest: one JSON document, [Path] in a
// small cpio archive that is appended to the initramfs. There is no metadata
// service to ask and none to spoof. The host writes it, only PID 1 reads it.
package boot

import (
	"net/netip"
	"time"
)

// Names that both sides spell.
const (
	// Path of the Config in the initramfs.
	Path = "/sbx/boot.json"
	// InitPath of the guest agent in the initramfs, the kernel's rdinit.
	InitPath = "/sbx/init"
	// ModulesDir holds kernel modules (.ko.xz) in the initramfs; the file
	// modules.order in it lists them, one name a line, in load order.
	ModulesDir = "/sbx/modules"
	// SSHPort is the name of the virtio-serial port that carries the one SSH
	// connection between supervisor and guest.
	SSHPort = "sbx.ssh"
	// ShareTag is the virtiofs tag of the file server. Its root holds one
	// folder per Mount, named Mount.Export.
	ShareTag = "sbx"
	// Root, Payload: the block devices' virtio serial numbers, by which the guest finds them
	// (/sys/block/*/serial), whatever order the kernel names them in.
	RootSerial    = "sbx-root"
	PayloadSerial = "sbx-payload"
	// BuildDone is what a builder prints on its console (hvc0), on a line of its own, before it powers
	// off, when the image is complete; BuildFailed is followed by ": reason".
	BuildDone   = "sbx-build: done"
	BuildFailed = "sbx-build: failed"
	// LogPrefix begins every line that the agent writes to its console.
	LogPrefix = "sbx-guest: "
	// DockerSocket in the guest: the only target that SSH forwards may name.
	DockerSocket = "/var/run/docker.sock"
)

// Config is the document. Version is 1.
type Config struct {
	Version       int               `json:"version"`
	Builder       bool              `json:"builder,omitempty"` // build an image from the payload instead of serving
	Layer         bool              `json:"layer,omitempty"`   // builder: no payload; run Provision in the system that is on the disk
	Hostname      string            `json:"hostname"`
	Time          time.Time         `json:"time"` // the host's wall clock at start
	Net           *Net              `json:"net,omitempty"`
	Mounts        []Mount           `json:"mounts,omitempty"`
	User          User              `json:"user"`
	HostKey       string            `json:"host_key,omitempty"`       // PEM (OpenSSH) private key of the guest's SSH server
	AuthorizedKey string            `json:"authorized_key,omitempty"` // the supervisor's public key, authorized_keys form
	Workdir       string            `json:"workdir,omitempty"`        // where commands start: the workspace in the guest
	Env           map[string]string `json:"env,omitempty"`            // for every command of the user
	Docker        bool              `json:"docker,omitempty"`
	CACerts       string            `json:"ca_certs,omitempty"`  // PEM, added to the guest's trust store
	Provision     []string          `json:"provision,omitempty"` // builder: shell commands after packages, as root
}

// Net is the guest's one interface. There is no DHCP: PID 1 sets what stands here.
type Net struct {
	MAC     string       `json:"mac"`
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway"` // default route and the only DNS server
	MTU     int          `json:"mtu"`
}

// Mount binds a folder of the share to a path of the guest.
type Mount struct {
	Export   string `json:"export"` // folder in the share's root
	Target   string `json:"target"` // absolute path, made if missing
	ReadOnly bool   `json:"readonly,omitempty"`
}

// User is the account that commands run as; it may use sudo without a password.
type User struct {
	Name string `json:"name"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
}
