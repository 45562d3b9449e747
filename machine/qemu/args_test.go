package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sandbox(arch string) Machine {
	return Machine{
		Arch: arch, CPUs: 4, Memory: 4 << 30, Kernel: "/k/vmlinuz", Initrd: "/k/initrd", Cmdline: []string{"rdinit=/sbx/init"},
		MAC: "02:00:00:00:00:01", Share: "sbx", SSHPort: "sbx.ssh",
		Disks: []Disk{{Serial: "sbx-root", Path: "/d/root,readonly=off", Format: "qcow2", Backing: "/i/root.img"}},
	}
}

func imageBuilder(arch string) Machine {
	return Machine{
		Arch: arch, CPUs: 2, Memory: 2 << 30, Kernel: "/k/vmlinuz", Initrd: "/k/initrd", Cmdline: []string{"rdinit=/sbx/init"},
		Disks: []Disk{
			{Serial: "sbx-root", Path: "/d/root", Format: "raw", Volatile: true},
			{Serial: "sbx-payload", Path: "/d/payload.tar", Format: "raw", ReadOnly: true},
		},
	}
}

// numbered gives each thing a descriptor, as openFiles would.
func numbered(m Machine) descriptors {
	fd := descriptors{QMP: 3, Console: 4, Kernel: 5, Initrd: 6, Net: 7, Share: 8, SSH: 9}
	next := 10
	for _, d := range m.Disks {
		fd.Disks = append(fd.Disks, next)
		next++
		backing := 0
		if d.Backing != "" {
			backing = next
			next++
		}
		fd.Backings = append(fd.Backings, backing)
	}
	return fd
}

func host(goos, accel string, v Version) Host {
	return Host{OS: goos, Binary: "/usr/bin/qemu", Version: v, Accel: accel, Sandbox: goos == "linux", TSCkHz: 2_596_120}
}

// TestArgsGolden is the review of every change of a command line.
func TestArgsGolden(t *testing.T) {
	v10, v7 := Version{10, 0, 2}, Version{7, 2, 0}
	for name, c := range map[string]struct {
		host    Host
		machine Machine
	}{
		"linux-amd64-kvm":         {host("linux", "kvm", v10), sandbox("amd64")},
		"linux-amd64-tcg":         {host("linux", "tcg", v10), sandbox("amd64")},
		"linux-amd64-tcg-7.2":     {host("linux", "tcg", v7), sandbox("amd64")},
		"linux-amd64-tcg-builder": {host("linux", "tcg", v10), imageBuilder("amd64")},
		"linux-arm64-kvm":         {host("linux", "kvm", v10), sandbox("arm64")},
		"linux-arm64-tcg":         {host("linux", "tcg", v10), sandbox("arm64")},
		"darwin-arm64-hvf":        {host("darwin", "hvf", v10), sandbox("arm64")},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := Args(c.host, c.machine, numbered(c.machine))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", name+".golden"), strings.Join(args, "\n")+"\n")
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestArgsRefuses(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"no CPU":              func(m *Machine) { m.CPUs = 0 },
		"no memory":           func(m *Machine) { m.Memory = 1 << 20 },
		"architecture":        func(m *Machine) { m.Arch = "riscv64" },
		"MAC with options":    func(m *Machine) { m.MAC = "02:00:00:00:00:01,netdev=x" },
		"guessed format":      func(m *Machine) { m.Disks[0].Format = "" },
		"raw with a backing":  func(m *Machine) { m.Disks[0].Format = "raw" },
		"newline in cmdline":  func(m *Machine) { m.Cmdline = []string{"a\nb"} },
		"too many disks":      func(m *Machine) { m.Disks = slices.Repeat(m.Disks, 3) },
		"option as a MAC":     func(m *Machine) { m.MAC = "-netdev user" },
		"option as a binary?": func(m *Machine) { m.Disks[0].Format = "raw,file=/etc/shadow" },
	} {
		m := sandbox("amd64")
		change(&m)
		if args, err := Args(host("linux", "tcg", Version{10, 0, 2}), m, numbered(m)); err == nil {
			t.Errorf("%s: accepted: %q", name, args)
		}
	}
}

// TestArgsNeverOpenTheNetwork holds for whatever strings a machine is made of.
func TestArgsNeverOpenTheNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := sandbox(rapid.SampledFrom([]string{"amd64", "arm64"}).Draw(t, "arch"))
		m.Share = rapid.String().Draw(t, "share")
		m.SSHPort = rapid.String().Draw(t, "port")
		m.Cmdline = rapid.SliceOf(rapid.String()).Draw(t, "cmdline")
		m.Disks[0].Serial = rapid.String().Draw(t, "serial")
		if rapid.Bool().Draw(t, "networkless") {
			m.MAC = ""
		}
		args, err := Args(host("linux", "tcg", Version{10, 0, 2}), m, numbered(m))
		if err != nil {
			return
		}
		netdevs := 0
		for i := 0; i+1 < len(args); i++ {
			switch args[i] {
			case "-nic", "-net":
				t.Fatalf("%s among %q", args[i], args)
			case "-netdev":
				netdevs++
				if !strings.HasPrefix(args[i+1], "stream,id=net,server=off,addr.type=fd,") {
					t.Fatalf("netdev %q", args[i+1])
				}
			case "-append":
				i++ // the guest's own
			}
		}
		if want := map[bool]int{true: 0, false: 1}[m.MAC == ""]; netdevs != want {
			t.Fatalf("%d netdevs, want %d", netdevs, want)
		}
	})
}
