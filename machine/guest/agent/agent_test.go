package agent

import (
	"bytes"
	"debug/elf"
	"errors"
	"testing"
)

func TestBinary(t *testing.T) {
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for arch, machine := range want {
		data, err := Binary(arch)
		if errors.Is(err, ErrNotBuilt) {
			t.Logf("%s: not built in this tree", arch)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		file, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if file.Machine != machine {
			t.Errorf("%s: the embedded agent is for %v", arch, file.Machine)
		}
		for _, segment := range file.Progs {
			if segment.Type == elf.PT_INTERP {
				t.Errorf("%s: the agent is not static", arch)
			}
		}
	}
}

func TestBinaryUnknown(t *testing.T) {
	for _, arch := range []string{"", "riscv64", "../agent.go", "amd64/"} {
		if data, err := Binary(arch); !errors.Is(err, ErrNotBuilt) || data != nil {
			t.Errorf("Binary(%q) = %d bytes, %v", arch, len(data), err)
		}
	}
}
