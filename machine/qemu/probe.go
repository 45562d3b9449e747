package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// probeLimit is for a QEMU that only prints; a cold disk is the slow part.
const probeLimit = 20 * time.Second

// oldest is the first QEMU with -netdev stream.
func oldest() Version { return Version{7, 2, 0} }

// Version is QEMU's: major, minor, micro.
type Version [3]int

// Less tells whether v is older than o.
func (v Version) Less(o Version) bool {
	for i := range v {
		if v[i] != o[i] {
			return v[i] < o[i]
		}
	}
	return false
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// Host is what this machine can do for a guest of one architecture.
type Host struct {
	OS      string // GOOS
	Binary  string // path of QEMU
	Version Version
	Accel   string // kvm, hvf or tcg
	Why     string // why that accelerator, for a person
	Sandbox bool   // -sandbox (seccomp) is built in
	TSCkHz  int    // of the host, for x86 guests under TCG; 0 where unknown
}

// Probe asks QEMU what it can do and chooses the accelerator. override is
// SBX_ACCEL: "" lets Probe choose. The error of a missing, too old or crippled
// QEMU says what to install.
func Probe(ctx context.Context, arch, override string) (Host, error) {
	name, ok := map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[arch]
	if !ok {
		return Host{}, fmt.Errorf("no guests of the architecture %q: amd64 and arm64 are supported", arch)
	}
	binary, err := exec.LookPath(name)
	if err != nil {
		return Host{}, fmt.Errorf("%s is not installed: `sbx doctor` says how to get it", name)
	}
	h := Host{OS: runtime.GOOS, Binary: binary}
	if h.Version, err = probeVersion(ctx, binary); err != nil {
		return Host{}, err
	}
	if h.Version.Less(oldest()) {
		return Host{}, fmt.Errorf("%s is version %s: sbx needs %s or later", binary, h.Version, oldest())
	}
	if err := probeMachine(ctx, binary, arch); err != nil {
		return Host{}, err
	}
	help, err := ask(ctx, binary, "-help")
	if err != nil {
		return Host{}, err
	}
	h.Sandbox = strings.Contains(help, "\n-sandbox ")
	h.Accel, h.Why, err = chooseAccel(arch, override)
	if err == nil && override == "" && h.Accel != "tcg" {
		if err := tryGuest(ctx, binary, arch, h.Accel); err != nil {
			h.Accel, h.Why = "tcg", err.Error()
		}
	}
	if h.Accel == "tcg" && arch == "amd64" {
		h.TSCkHz = measureTSC()
	}
	return h, err
}

func ask(ctx context.Context, binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", binary, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

func probeVersion(ctx context.Context, binary string) (Version, error) {
	out, err := ask(ctx, binary, "-version")
	if err != nil {
		return Version{}, err
	}
	m := regexp.MustCompile(`version (\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(out)
	if m == nil {
		line, _, _ := strings.Cut(out, "\n")
		return Version{}, fmt.Errorf("%s says %q, which names no version", binary, line)
	}
	var v Version
	for i := range v {
		if v[i], err = strconv.Atoi(m[i+1]); err != nil {
			return Version{}, err
		}
	}
	return v, nil
}

func probeMachine(ctx context.Context, binary, arch string) error {
	board := map[string]string{"amd64": "microvm", "arm64": "virt"}[arch]
	out, err := ask(ctx, binary, "-M", "help")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == board {
			return nil
		}
	}
	return fmt.Errorf("%s has no machine type %q: install the distribution's full QEMU package", binary, board)
}

// chooseAccel prefers hardware. To open /dev/kvm is not enough: where the host's
// processor is itself virtual without nested virtualization, the device opens,
// creates a machine, and no guest ever boots.
func chooseAccel(arch, override string) (accel, why string, err error) {
	switch override {
	case "":
	case "kvm", "hvf", "tcg":
		return override, "SBX_ACCEL=" + override, nil
	default:
		return "", "", fmt.Errorf("SBX_ACCEL=%q: must be kvm, hvf or tcg", override)
	}
	if arch != runtime.GOARCH {
		return "tcg", fmt.Sprintf("a %s guest on a %s host is emulated", arch, runtime.GOARCH), nil
	}
	if obstacle := hardware(); obstacle != nil {
		return "tcg", obstacle.Error(), nil //nolint:nilerr // no hardware is an answer, not a failure
	}
	return hardwareAccel, "hardware virtualization is usable", nil
}

// x86Virtualization looks for the processor's own flag in /proc/cpuinfo.
func x86Virtualization(cpuinfo string) error {
	for line := range strings.Lines(cpuinfo) {
		key, flags, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if flag == "vmx" || flag == "svm" {
				return nil
			}
		}
		return errors.New("the processor offers no virtualization (no vmx or svm flag): " +
			"in a cloud machine, turn on nested virtualization; on a laptop, turn it on in the firmware")
	}
	return errors.New("/proc/cpuinfo names no processor flags")
}

// openable tells why a device cannot be used.
func openable(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s does not exist: load the kvm module (sudo modprobe kvm_intel or kvm_amd)", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s is not yours to use: sudo usermod -aG kvm $USER, then log in again", path)
	}
	return err
}
