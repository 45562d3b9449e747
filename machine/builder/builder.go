// Package builder fills an image's disk in a machine of its own.
//
// The machine boots the image's kernel with the guest agent in builder mode, an
// empty root disk and the payload. It has no share and no port, and a network
// only for provisioning commands. It runs maintainer scripts of packages and,
// with provisioning, whatever a project asked for: it is as little trusted as a
// sandbox. All that it says arrives as lines on its console, which are bounded,
// cleaned and never obeyed. That an image is good it may claim; the worst it can
// do is to spoil the disk that it was given.
package builder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/guest/agent"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/initramfs"
	"github.com/sbx-vm/sbx/machine/qemu"
)

// Size of the machine: dpkg uses one processor and the kernel's writing another;
// the page cache holds the payload and the disk, more gains nothing.
const (
	cpus   = 2
	memory = 3 << 30 // bytes
)

// Times. Under emulation a build takes some four minutes and is silent for at
// most one of them.
const (
	deadline  = 30 * time.Minute
	stall     = 5 * time.Minute
	provision = time.Hour // more, when a project's commands run
	powerOff  = time.Minute
)

// Builder starts machines that build images.
type Builder struct {
	Self     string // path of sbx, for the confining step
	UID, GID int    // what QEMU runs as when sbx is root
	Accel    string // SBX_ACCEL
	// Net and Link are the network of builds that provision; nil: they fail. Link
	// serves the machine's frames until the function that it returns is called.
	Net  *boot.Net
	Link func(ctx context.Context, frames net.Conn) (func() error, error)
	// CACerts are authorities in PEM that provisioning trusts besides the image's own.
	CACerts string
}

// Build is an image.BuildFunc.
func (b Builder) Build(ctx context.Context, in image.BuildInput) error {
	if len(in.Provision) > 0 && (b.Link == nil || b.Net == nil) {
		return errors.New("provisioning commands need a network, and this build has none")
	}
	limit := deadline
	if len(in.Provision) > 0 {
		limit += provision
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	host, err := qemu.Probe(ctx, in.Arch, b.Accel)
	if err != nil {
		return err
	}
	initrd := filepath.Join(filepath.Dir(in.Root), "initrd.cpio")
	defer os.Remove(initrd) //nolint:errcheck // the folder goes with a failed build
	if err := b.writeInitrd(initrd, in); err != nil {
		return err
	}
	p, err := qemu.Start(ctx, qemu.Config{Host: host, Machine: b.machine(in, initrd), Self: b.Self, UID: b.UID, GID: b.GID})
	if err != nil {
		return err
	}
	defer p.Kill()
	defer p.Console.Close()
	if p.Net != nil {
		defer p.Net.Close()
		unlink, err := b.Link(ctx, p.Net)
		if err != nil {
			return fmt.Errorf("connect the builder: %w", err)
		}
		defer unlink() //nolint:errcheck // nothing is left to save
	}
	return watch(ctx, p, in)
}

func (b Builder) machine(in image.BuildInput, initrd string) qemu.Machine {
	m := qemu.Machine{
		Arch: in.Arch, CPUs: cpus, Memory: memory, Kernel: in.Kernel, Initrd: initrd,
		Cmdline: []string{"rdinit=" + boot.InitPath},
		Disks: []qemu.Disk{
			{Serial: boot.RootSerial, Path: in.Root, Format: "raw", Volatile: true},
		},
	}
	if in.Payload != "" {
		m.Disks = append(m.Disks, qemu.Disk{Serial: boot.PayloadSerial, Path: in.Payload, Format: "raw", ReadOnly: true})
	}
	if len(in.Provision) > 0 {
		m.MAC = b.Net.MAC
	}
	return m
}

// writeInitrd joins the agent, the modules and the boot document.
func (b Builder) writeInitrd(path string, in image.BuildInput) error {
	binary, err := agent.Binary(in.Arch)
	if err != nil {
		return err
	}
	modules, err := initramfs.Modules(in.Modules)
	if err != nil {
		return err
	}
	config := boot.Config{Version: 1, Builder: true, Layer: in.Payload == "", Hostname: "sbx-builder", Time: time.Now().UTC(), Provision: in.Provision}
	if len(in.Provision) > 0 {
		config.Net, config.CACerts = b.Net, b.CACerts
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := initramfs.WriteBase(out, binary, modules); err != nil {
		return err
	}
	if err := initramfs.WriteBoot(out, config); err != nil {
		return err
	}
	return out.Close()
}
