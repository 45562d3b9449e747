package qemu

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"
)

// maxDisks is the root and a payload: with network, share, entropy, serial and
// balloon they fill seven of microvm's eight virtio-mmio slots.
const maxDisks = 2

// Machine is a virtual machine as QEMU sees one. A sandbox and an image builder
// are both Machines.
type Machine struct {
	Arch    string // GOARCH of the guest
	CPUs    int
	Memory  int64  // bytes
	Kernel  string // path
	Initrd  string // path
	Cmdline []string
	Disks   []Disk
	MAC     string // of the one network interface; empty for a machine without network
	Share   string // virtiofs tag; empty for none
	SSHPort string // name of the virtio-serial port; empty for none
}

// Disk is a virtio block device. The guest finds it by its serial number.
type Disk struct {
	Serial   string
	Path     string
	Format   string // raw or qcow2: always told, never guessed from bytes that a guest wrote
	ReadOnly bool
	// Backing is the read-only raw image under a qcow2 overlay, empty for none. What the
	// overlay's own header says about backing files is not followed.
	Backing string
	// Volatile disks need not survive a crash of the host: no write is waited for.
	Volatile bool
}

// validate refuses what QEMU would misread or silently do otherwise.
func (m Machine) validate() error {
	if m.CPUs < 1 || m.Memory < 64<<20 {
		return fmt.Errorf("a machine with %d CPUs and %d bytes of memory cannot start", m.CPUs, m.Memory)
	}
	if _, err := net.ParseMAC(m.MAC); m.MAC != "" && err != nil {
		return fmt.Errorf("network interface: %w", err)
	}
	if len(m.Disks) > maxDisks {
		return fmt.Errorf("%d disks: the machine has room for %d", len(m.Disks), maxDisks)
	}
	for _, w := range m.Cmdline {
		if strings.ContainsFunc(w, unicode.IsControl) {
			return fmt.Errorf("kernel command line: %q has a control character", w)
		}
	}
	for _, d := range m.Disks {
		if !slices.Contains([]string{"raw", "qcow2"}, d.Format) {
			return fmt.Errorf("disk %q: format %q is neither raw nor qcow2", d.Serial, d.Format)
		}
		if d.Backing != "" && d.Format != "qcow2" {
			return fmt.Errorf("disk %q: a %s disk has no backing file", d.Serial, d.Format)
		}
	}
	return nil
}
