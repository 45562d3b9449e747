// Package image turns recipes into bootable images, reproducibly, and keeps them.
//
// A recipe names packages. The Debian archive's signed indexes turn names into
// an exact list, the lock; the lock and the recipe name the image: the same
// inputs have the same ID. The host downloads, checks and unpacks compression,
// and lays all of it in one tar, the payload. A builder machine, which the
// [BuildFunc] starts, makes the file system from the payload: no root, no loop
// device and no foreign-architecture support are needed on the host, and
// maintainer scripts run where they cannot hurt it.
//
// Provisioning commands make layers: an image that begins as a copy of the one
// below it (without the copy's cost where the file system shares blocks), in
// which the machine runs one group of commands. An agent's installation is one
// group and a project's own commands the next, so that projects share what they
// have in common. A layer is complete: nothing but its making needs the one below.
//
// An image is a folder that never changes once it has its name: it is made in a
// temporary folder beside it and renamed when whole. A lock per recipe makes
// two builds at once one. Sandboxes boot overlays over Root.
package image

import (
	"context"
	"errors"
	"path/filepath"
	"time"
)

// formatVersion changes when the same recipe and lock make a different image,
// or the folder another layout.
const formatVersion = 3

// RootSize is the size of a root disk in bytes; sparse, some 1.3 GiB are used.
// It is also the smallest disk that a sandbox can have.
const RootSize = 8 << 30

// Image is one finished image. Its files are read-only.
type Image struct {
	ID      string    `json:"id"`
	Recipe  string    `json:"recipe"`
	Key     string    `json:"key"` // of recipe and architecture, see Recipe.Key
	Arch    string    `json:"arch"`
	Release string    `json:"release"`          // kernel release, as uname -r has it
	Parent  string    `json:"parent,omitempty"` // ID of the image that this one is a layer over
	Created time.Time `json:"created"`

	Dir     string `json:"-"`
	Kernel  string `json:"-"` // what QEMU's -kernel takes
	Modules string `json:"-"` // folder with .ko.xz files and modules.order for the initramfs
	Root    string `json:"-"` // raw ext4 disk
	Lock    Lock   `json:"-"`
}

func (i Image) in(dir string) Image {
	i.Dir = dir
	i.Kernel = filepath.Join(dir, kernelName)
	i.Modules = filepath.Join(dir, modulesName)
	i.Root = filepath.Join(dir, rootName)
	return i
}

// Names in an image's folder.
const (
	kernelName   = "vmlinuz"
	modulesName  = "modules"
	rootName     = "root.raw"
	lockName     = "lock.json"
	manifestName = "image.json"
	payloadName  = "payload.tar" // only while building
)

// Progress is told how a build goes on. Implementations are safe for concurrent
// use and return at once.
type Progress interface {
	// Phase begins a part of the work that counts up to total bytes; 0: unknown.
	Phase(name string, total int64)
	// Add counts bytes of the current phase.
	Add(n int64)
	// Warn says what the user should know although the build goes on.
	Warn(text string)
}

// BuildInput is all that a builder machine needs.
type BuildInput struct {
	Arch      string   // GOARCH
	Kernel    string   // path
	Modules   string   // folder, see Image.Modules
	Root      string   // raw disk of RootSize bytes: empty, to be filled, or for a layer the copy to work on
	Payload   string   // tar, see boot.Plan; only read; "": a layer
	Provision []string // shell commands to run at the end, as root, with network
	Log       string   // where to write the machine's console; kept when the build fails
	Progress  Progress
}

// BuildFunc fills in.Root from in.Payload, or runs in.Provision in the system on it. It returns when the disk is complete
// and the machine gone, or with an error; it honours ctx.
type BuildFunc func(ctx context.Context, in BuildInput) error

// Options of Ensure.
type Options struct {
	Arch     string // GOARCH of the guest
	Mirror   string // base URI of a Debian mirror; "": the host's, else ftp.debian.org
	Registry string // npm registry; "": the host's
	Refresh  bool   // look for newer packages although an image is there
	Progress Progress
	Build    BuildFunc
	Now      func() time.Time // nil: time.Now
	Host     Host             // what the host is set to; the zero value reads nothing
}

func (o Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// ErrNotFound means that there is no image with this ID.
var ErrNotFound = errors.New("no such image")

// silent is the Progress of who did not ask for one.
type silent struct{}

func (silent) Phase(string, int64) {}
func (silent) Add(int64)           {}
func (silent) Warn(string)         {}

// debianArch translates GOARCH; the two names agree for what sbx supports.
func debianArch(arch string) (string, error) {
	if arch != "amd64" && arch != "arm64" {
		return "", errors.New("no images for architecture " + arch + ", only amd64 and arm64")
	}
	return arch, nil
}
