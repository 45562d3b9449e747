package qemu

import (
	"fmt"
	"strconv"
	"strings"
)

// descriptors are the numbers under which QEMU inherits what it works on. The
// layout is in files.go; Args only needs the numbers.
type descriptors struct {
	QMP, Console, SSH, Net, Share int
	Kernel, Initrd                int
	Disks, Backings               []int // by Machine.Disks; a Backing of 0 is none
}

// Args is the command line for a machine on a host. It is pure.
func Args(host Host, m Machine, fd descriptors) ([]string, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	b := &builder{bus: "device"}
	if err := b.machine(host, m); err != nil {
		return nil, err
	}
	b.add("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")
	if host.Sandbox {
		b.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	b.add("-smp", strconv.Itoa(m.CPUs), "-m", strconv.FormatInt(m.Memory>>20, 10)+"M")
	b.add("-kernel", reopened(host, m.Kernel, fd.Kernel), "-initrd", reopened(host, m.Initrd, fd.Initrd), "-append", cmdline(host, m))
	b.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fd.QMP), "-mon", "chardev=qmp,mode=control")
	b.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d", fd.Console), "-serial", "chardev:console")
	b.disks(m, fd)
	b.network(m, fd)
	b.share(m, fd)
	b.ssh(m, fd)
	b.add("-object", "rng-builtin,id=rng", "-device", "virtio-rng-"+b.bus+",rng=rng")
	b.add("-device", "virtio-balloon-"+b.bus+",free-page-reporting=on")
	return b.args, nil
}

type builder struct {
	args []string
	bus  string // suffix of virtio devices: "device" is virtio-mmio, "pci" PCI
}

func (b *builder) add(args ...string) { b.args = append(b.args, args...) }

// machine chooses the board. Both have only virtio-mmio devices; microvm offers
// eight slots of them, and all we attach are seven.
func (b *builder) machine(host Host, m Machine) error {
	memory := "memory-backend-memfd"
	if host.OS == "darwin" {
		memory = "memory-backend-shm"
	}
	// The file server maps the guest's memory: it must be shared.
	b.add("-object", fmt.Sprintf("%s,id=ram,size=%dM,share=on", memory, m.Memory>>20))
	switch m.Arch {
	case "amd64":
		// acpi=on: this kernel finds virtio-mmio no other way. qboot: SeaBIOS resets with a
		// memory backend of 2 GiB. pit and pic: without them TCG guests never start their clock.
		b.add("-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,memory-backend=ram", "-bios", "qboot.rom")
	case "arm64":
		b.add("-M", "virt,gic-version=max,memory-backend=ram")
	default:
		return fmt.Errorf("no machine for the architecture %q: amd64 and arm64 are supported", m.Arch)
	}
	// vhost-user devices refuse to be legacy ones.
	b.add("-global", "virtio-mmio.force-legacy=false")
	b.accelerator(host, m.Arch)
	return nil
}

func (b *builder) accelerator(host Host, arch string) {
	if host.Accel != "tcg" {
		b.add("-accel", host.Accel, "-cpu", "host")
		return
	}
	threads := "multi"
	// Kernel 6.12 dies in kmalloc with several TCG threads of QEMU 7.2.
	if host.Version.Less(Version{8, 0, 0}) {
		threads = "single"
	}
	// la57: the guest hangs with 5-level paging. pauth-impdef: the architected
	// algorithm costs TCG half its speed.
	cpu := "max,la57=off"
	if arch == "arm64" {
		cpu = "max,pauth-impdef=on"
	}
	b.add("-accel", "tcg,thread="+threads, "-cpu", cpu)
}

func (b *builder) disks(m Machine, fd descriptors) {
	set := 0
	file := func(name string, number int, readOnly, volatile bool) {
		set++
		access := "off"
		if readOnly {
			access = "on"
		}
		cache := ""
		if volatile {
			cache = ",cache.no-flush=on"
		}
		b.add("-add-fd", fmt.Sprintf("set=%d,fd=%d", set, number),
			"-blockdev", fmt.Sprintf("driver=file,node-name=%s,filename=/dev/fdset/%d,read-only=%s,discard=unmap%s", name, set, access, cache))
	}
	for i, d := range m.Disks {
		name := fmt.Sprintf("disk%d", i)
		file(name+"-file", fd.Disks[i], d.ReadOnly, d.Volatile)
		format := fmt.Sprintf("driver=%s,node-name=%s,file=%s-file,discard=unmap", d.Format, name, name)
		if d.ReadOnly {
			format += ",read-only=on"
		}
		if d.Volatile {
			format += ",cache.no-flush=on"
		}
		if d.Format == "qcow2" {
			format += ",backing=" + b.backing(name, file, fd.Backings[i])
		}
		b.add("-blockdev", format)
		// A full host disk pauses the guest, which the supervisor reports; other errors are the guest's.
		policy := ",werror=enospc"
		if d.ReadOnly {
			policy = ""
		}
		b.add("-device", fmt.Sprintf("virtio-blk-%s,drive=%s,serial=%s%s", b.bus, name, comma(d.Serial), policy))
	}
}

// backing names the node under an overlay; an empty name is none, whatever the
// overlay's header says.
func (b *builder) backing(name string, file func(string, int, bool, bool), number int) string {
	if number == 0 {
		return ""
	}
	file(name+"-base-file", number, true, false)
	b.add("-blockdev", fmt.Sprintf("driver=raw,node-name=%s-base,file=%s-base-file,read-only=on", name, name))
	return name + "-base"
}

func (b *builder) network(m Machine, fd descriptors) {
	if m.MAC == "" {
		return
	}
	b.add("-netdev", fmt.Sprintf("stream,id=net,server=off,addr.type=fd,addr.str=%d", fd.Net),
		"-device", fmt.Sprintf("virtio-net-%s,netdev=net,mac=%s", b.bus, m.MAC))
}

func (b *builder) share(m Machine, fd descriptors) {
	if m.Share == "" {
		return
	}
	b.add("-chardev", fmt.Sprintf("socket,id=share,fd=%d", fd.Share),
		"-device", fmt.Sprintf("vhost-user-fs-%s,chardev=share,tag=%s", b.bus, comma(m.Share)))
}

// sshPortID is the port's name in QEMU's events.
const sshPortID = "sshport"

// ssh is a listening socket, so that the supervisor can begin a clean stream
// again when the guest's server restarted.
func (b *builder) ssh(m Machine, fd descriptors) {
	if m.SSHPort == "" {
		return
	}
	b.add("-chardev", fmt.Sprintf("socket,id=ssh,fd=%d,server=on,wait=off", fd.SSH),
		"-device", "virtio-serial-"+b.bus, "-device", "virtserialport,id="+sshPortID+",chardev=ssh,name="+comma(m.SSHPort))
}

func cmdline(host Host, m Machine) string {
	console := "ttyS0"
	if m.Arch == "arm64" {
		console = "ttyAMA0"
	}
	words := []string{"console=" + console, "quiet", "panic=-1", "reboot=t", "random.trust_cpu=on"}
	if host.Accel == "tcg" {
		words = append(words, "mitigations=off") // TCG speculates on nothing
		if m.Arch == "amd64" && host.TSCkHz > 0 {
			// The quick calibration of the TSC fails under TCG now and then, and the kernel then
			// waits for timer ticks that do not come: a third of all boots hung.
			words = append(words, fmt.Sprintf("tsc_early_khz=%d", host.TSCkHz), "tsc=nowatchdog")
		}
	}
	return strings.Join(append(words, m.Cmdline...), " ")
}

// reopened is how QEMU opens a descriptor that it has already: -kernel and -initrd
// take only paths. macOS has no such path that can be read twice, and QEMU runs
// as the user there: it gets the file's own.
func reopened(host Host, path string, number int) string {
	if host.OS == "darwin" {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d", number)
}

// comma writes a comma twice, as QEMU's option values want it.
func comma(value string) string { return strings.ReplaceAll(value, ",", ",,") }
