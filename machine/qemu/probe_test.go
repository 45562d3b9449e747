package qemu

import (
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/qmp"
)

func TestX86Virtualization(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		usable  bool
	}{
		"intel":          {"processor\t: 0\nflags\t\t: fpu vmx sse\n", true},
		"amd":            {"flags\t\t: fpu svm\n", true},
		"nested trap":    {"model name\t: EPYC with vmx in its name\nflags\t\t: fpu hypervisor lahf_lm\n", false},
		"part of a word": {"flags\t\t: vmxoff svm_lock\n", false},
		"empty":          {"", false},
	} {
		if err := x86Virtualization(c.cpuinfo); (err == nil) != c.usable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b Version
		less bool
	}{
		{Version{7, 2, 0}, Version{7, 2, 0}, false},
		{Version{7, 2, 9}, Version{10, 0, 0}, true},
		{Version{10, 0, 2}, Version{10, 0, 13}, true},
		{Version{8, 0, 0}, Version{7, 9, 9}, false},
	} {
		if got := c.a.Less(c.b); got != c.less {
			t.Errorf("%s < %s is %v", c.a, c.b, got)
		}
	}
}

func TestProbeRefusesAWrongOverride(t *testing.T) {
	if _, _, err := chooseAccel(runtime.GOARCH, "xen"); err == nil || !strings.Contains(err.Error(), `"xen"`) {
		t.Errorf("SBX_ACCEL=xen: %v", err)
	}
}

func TestTrialSeparatesRunningFromHanging(t *testing.T) {
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	if err := tryGuest(t.Context(), binary, "amd64", "tcg"); err != nil {
		t.Errorf("a guest under TCG: %v", err)
	}
	if err := tryGuest(t.Context(), binary, "amd64", "none-such"); err == nil {
		t.Error("an accelerator that does not exist ran a guest")
	}
}

func TestTrialArm64(t *testing.T) {
	binary, err := exec.LookPath("qemu-system-aarch64")
	if err != nil {
		t.Skip("no qemu-system-aarch64")
	}
	if err := tryGuest(t.Context(), binary, "arm64", "tcg"); err != nil {
		t.Errorf("a guest under TCG: %v", err)
	}
}

func TestMeasuredTSCIsStable(t *testing.T) {
	a, b := measureTSC(), measureTSC()
	if runtime.GOARCH != "amd64" {
		if a != 0 {
			t.Errorf("%d kHz on %s", a, runtime.GOARCH)
		}
		return
	}
	if a < 500_000 || a > 10_000_000 || max(a, b)-min(a, b) > a/500 {
		t.Errorf("measured %d and %d kHz", a, b)
	}
}

func TestPortChange(t *testing.T) {
	event := func(name string, data map[string]any) qmp.Event { return qmp.Event{Event: name, Data: data} }
	for name, c := range map[string]struct {
		event    qmp.Event
		open, ok bool
	}{
		"opened":       {event("VSERPORT_CHANGE", map[string]any{"id": sshPortID, "open": true}), true, true},
		"closed":       {event("VSERPORT_CHANGE", map[string]any{"id": sshPortID, "open": false}), false, true},
		"another port": {event("VSERPORT_CHANGE", map[string]any{"id": "x", "open": false}), false, false},
		"no bool":      {event("VSERPORT_CHANGE", map[string]any{"id": sshPortID, "open": "no"}), false, false},
		"other event":  {event("RESUME", nil), false, false},
	} {
		if open, ok := portChange(c.event); open != c.open || ok != c.ok {
			t.Errorf("%s: got %v, %v", name, open, ok)
		}
	}
}

func TestStartFailsWithoutAFile(t *testing.T) {
	m := sandbox("amd64")
	m.Kernel = filepath.Join(t.TempDir(), "none")
	m.Share = ""
	_, err := Start(t.Context(), Config{Machine: m, SSHSocket: filepath.Join(t.TempDir(), "s")})
	if err == nil || !errors.Is(err, exec.ErrNotFound) && !strings.Contains(err.Error(), m.Kernel) {
		t.Errorf("started without a kernel: %v", err)
	}
}
