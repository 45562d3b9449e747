package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// trialLimit is a hundred times what the trial takes where hardware works.
const trialLimit = 5 * time.Second

// tryGuest runs a guest of a few instructions that ends its machine: an accelerator
// that lets no guest get anywhere shows itself here and not as a sandbox that
// boots for ever. It is not enough alone: on a nested host without vmx or svm these
// instructions ran under KVM while a stock kernel hangs, so [chooseAccel] looks for
// the processor's flag first.
func tryGuest(ctx context.Context, binary, arch, accel string) error {
	dir, err := os.MkdirTemp("", "sbx-trial-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	firmware := filepath.Join(dir, "firmware")
	code, args, status := x86Trial, x86TrialArgs(), x86TrialStatus
	if arch == "arm64" {
		code, args, status = armTrial, armTrialArgs(), 0
	}
	if err := os.WriteFile(firmware, code(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	args = append(args, "-accel", accel, "-bios", firmware, "-m", "16M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("a trial guest under %s made no progress in %s", accel, trialLimit)
	}
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		return fmt.Errorf("run a trial guest: %w", err)
	}
	if got != status {
		return fmt.Errorf("a trial guest under %s failed with status %d: %s", accel, got, strings.TrimSpace(string(out)))
	}
	return nil
}

// x86TrialStatus is what isa-debug-exit makes of the value written: 2·v+1.
const x86TrialStatus = 2*0x2a + 1

func x86TrialArgs() []string {
	return []string{"-M", "microvm,acpi=off,rtc=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"}
}

// x86Trial is a 64 KiB firmware: from the reset vector it jumps to its begin,
// enters protected mode, counts to a million and writes 0x2a to port 0xf4.
func x86Trial() []byte {
	const size = 64 << 10
	rom := make([]byte, size)
	copy(rom, []byte{
		0xfa,                                     // 0x00 cli
		0x2e, 0x66, 0x0f, 0x01, 0x16, 0x40, 0x00, // 0x01 o32 lgdt cs:[0x40]
		0x0f, 0x20, 0xc0, // 0x08 mov eax, cr0
		0x0c, 0x01, // 0x0b or al, 1
		0x0f, 0x22, 0xc0, // 0x0d mov cr0, eax
		0x66, 0xea, 0x20, 0x00, 0xff, 0xff, 0x08, 0x00, // 0x10 jmp 8:0xffff0020
	})
	copy(rom[0x20:], []byte{
		0xb9, 0x40, 0x42, 0x0f, 0x00, // mov ecx, 1000000
		0x49, 0x75, 0xfd, // dec ecx; jnz to the dec
		0xb0, 0x2a, 0xe6, 0xf4, // mov al, 0x2a; out 0xf4, al
		0xf4, 0xeb, 0xfd, // hlt; again
	})
	copy(rom[0x40:], []byte{0x0f, 0x00, 0x48, 0x00, 0xff, 0xff}) // GDT: two entries at 0xffff0048
	copy(rom[0x50:], []byte{0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0}) // entry 1: flat 32-bit code, already accessed: this is ROM
	copy(rom[size-16:], []byte{0xe9, 0x0d, 0x00})                // jmp to 0 of the segment: fff3 + 000d
	return rom
}

func armTrialArgs() []string { return []string{"-M", "virt,gic-version=max", "-cpu", "max"} }

// armTrial asks the machine to power off (PSCI SYSTEM_OFF, Arm DEN 0022).
func armTrial() []byte {
	return []byte{
		0x00, 0x01, 0x80, 0x52, // movz w0, #8
		0x00, 0x80, 0xb0, 0x72, // movk w0, #0x8400, lsl 16
		0x02, 0x00, 0x00, 0xd4, // hvc #0
		0x00, 0x00, 0x00, 0x14, // b .
	}
}
