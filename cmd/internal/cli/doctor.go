package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/machine/guest/agent"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/qmp"
)

func newDoctor(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what this machine can do and what to install for the rest",
		Long: "Looks at what sbx needs on this machine and says what to type for what is missing.\n\n" +
			"Exit status: 0 sbx can work (there may be warnings), 1 something required is missing, 2 wrong usage.",
		Example: "  sbx doctor\n  sbx doctor --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			checks := a.examine(ctx)
			if asJSON {
				if err := printJSON(a.Out, checks); err != nil {
					return err
				}
			} else {
				printChecks(a.Out, checks)
			}
			return missing(checks)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// examine looks at everything; nothing it finds keeps it from looking on.
func (a *app) examine(ctx context.Context) []check {
	var checks []check
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
		checks = append(checks, check{Name: "system", Status: checkOK, Detail: runtime.GOOS + "/" + runtime.GOARCH})
	} else {
		checks = append(checks, check{Name: "system", Status: checkMissing, Detail: "sbx runs on Linux and macOS, not on " + runtime.GOOS})
	}
	if os.Geteuid() == 0 {
		checks = append(checks, check{Name: "user", Status: checkWarning, Detail: "you are root: sbx needs no root, an ordinary user is safer"})
	}
	checks = append(checks, checkQEMU(ctx, a.getenv("SBX_ACCEL"))...)
	checks = append(checks, checkVirtualization(), checkImg(), checkAgent(), checkLandlock())
	checks = append(checks, a.checkRoom()...)
	return append(checks, checkLibvirt(ctx)...)
}

// checkQEMU probes QEMU for this machine's own architecture.
func checkQEMU(ctx context.Context, accel string) []check {
	host, err := qemu.Probe(ctx, runtime.GOARCH, accel)
	if err != nil {
		return []check{{Name: "qemu", Status: checkMissing, Detail: err.Error(), Fix: installQEMU()}}
	}
	checks := []check{{Name: "qemu", Status: checkOK, Detail: fmt.Sprintf("%s, version %s", host.Binary, host.Version)}}
	if faulty(host.Version) {
		checks = append(checks, check{
			Name: "qemu faults", Status: checkWarning,
			Detail: fmt.Sprintf("QEMU %s has known faults that a guest can trigger (CVE-2026-50626; mended in 10.0.13 and 11.1)", host.Version),
			Fix:    "update QEMU when your distribution has it; sbx confines QEMU meanwhile",
		})
	}
	acceleration := check{Name: "accelerator", Status: checkOK, Detail: host.Accel + ": " + host.Why}
	if host.Accel == machine.TCG {
		acceleration.Status = checkWarning
		acceleration.Detail = "tcg (guests are emulated: several times slower, and not a security boundary): " + host.Why
	}
	sandbox := check{Name: "qemu sandbox", Status: checkOK, Detail: "QEMU can filter its own system calls (-sandbox)"}
	if !host.Sandbox {
		sandbox.Status, sandbox.Detail = checkWarning, "this QEMU was built without -sandbox (seccomp): it runs with one wall less"
	}
	return append(checks, acceleration, sandbox)
}

// faulty tells whether a QEMU has the faults that 10.0.13 and 11.1 mended: the fix
// went to those two branches (FACTS, CVE-2026-50626).
func faulty(v qemu.Version) bool {
	if v.Less(qemu.Version{10, 0, 13}) {
		return true
	}
	return !v.Less(qemu.Version{10, 1, 0}) && v.Less(qemu.Version{11, 1, 0})
}

func installQEMU() string {
	if runtime.GOOS == "darwin" {
		return "brew install qemu"
	}
	pkg := map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}[runtime.GOARCH]
	release, err := os.ReadFile("/etc/os-release")
	if err == nil && strings.Contains(string(release), "VERSION_CODENAME=bookworm") {
		return "sudo apt install -t bookworm-backports " + pkg + " qemu-utils"
	}
	return "sudo apt install " + pkg + " qemu-utils (or your distribution's package of QEMU)"
}

func checkImg() check {
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		return check{Name: "qemu-img", Status: checkMissing, Detail: "qemu-img is not installed", Fix: installQEMU()}
	}
	return check{Name: "qemu-img", Status: checkOK, Detail: path}
}

func checkAgent() check {
	if _, err := agent.Binary(runtime.GOARCH); err != nil {
		return check{Name: "guest agent", Status: checkMissing, Detail: err.Error(), Fix: "make build"}
	}
	return check{Name: "guest agent", Status: checkOK, Detail: "carried for " + runtime.GOARCH}
}

func checkLandlock() check {
	abi := confine.Landlock()
	switch {
	case abi > 0:
		return check{Name: "landlock", Status: checkOK, Detail: fmt.Sprintf("the kernel can confine files (ABI %d)", abi)}
	case runtime.GOOS != "linux":
		return check{Name: "landlock", Status: checkWarning, Detail: "Linux alone has it: QEMU and the file server are not confined to their files"}
	default:
		return check{
			Name: "landlock", Status: checkWarning,
			Detail: "the kernel has no Landlock, or it is not switched on: QEMU and the file server are not confined to their files",
			Fix:    "add landlock to the kernel's lsm= list (Linux 5.13 or later)",
		}
	}
}

// Room that a guest's disk and the image cache need to be of use.
const (
	roomWanted = 5 << 30
	roomNeeded = 1 << 30
)

// checkRoom looks at the file systems of sandboxes' disks and of images.
func (a *app) checkRoom() []check {
	st, err := a.openStore()
	if err != nil {
		return []check{{Name: "state folder", Status: checkMissing, Detail: err.Error()}}
	}
	var checks []check
	for _, place := range [][2]string{{"room for disks", st.DataDir()}, {"room for images", st.CacheDir()}} {
		c := check{Name: place[0], Status: checkOK}
		dir := existingAbove(place[1])
		free, err := freeBytes(dir)
		c.Detail = fmt.Sprintf("%s free in %s", humanize.IBytes(free), place[1])
		switch {
		case err != nil:
			c.Status, c.Detail = checkWarning, fmt.Sprintf("%s: %v", dir, err)
		case free < roomNeeded:
			c.Status, c.Fix = checkMissing, "make room, or point SBX_HOME at another file system"
		case free < roomWanted:
			c.Status, c.Fix = checkWarning, "make room: a guest is paused when its disk cannot grow"
		}
		checks = append(checks, c)
	}
	return checks
}

// existingAbove is dir, or the nearest folder above it that is there.
func existingAbove(dir string) string {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return dir
}

// libvirtLimit bounds the question to a daemon that sbx does not depend on.
const libvirtLimit = 2 * time.Second

// checkLibvirt says what else uses the hypervisor, where libvirt is installed.
func checkLibvirt(ctx context.Context) []check {
	const socket = "/var/run/libvirt/libvirt-sock"
	if _, err := os.Stat(socket); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, libvirtLimit)
	defer cancel()
	domains, err := qmp.LibvirtDomains(ctx, socket)
	if err != nil {
		return []check{{Name: "libvirt", Status: checkWarning, Detail: "its machines could not be listed: " + err.Error()}}
	}
	names := make([]string, len(domains))
	for i, domain := range domains {
		names[i] = domain.Name
	}
	return []check{{Name: "libvirt", Status: checkOK, Detail: fmt.Sprintf("%d machines use this host's hypervisor too %q", len(domains), names)}}
}
