package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/initramfs"
)

// The live tests boot a Debian cloud kernel that SBX_TEST_KERNEL names by the root
// of its unpacked package; SBX_TEST_BOOTS is how often TestBoots does it.
const (
	kernelVar = "SBX_TEST_KERNEL"
	bootsVar  = "SBX_TEST_BOOTS"
	// testUID is from a range that no distribution assigns.
	testUID = 0x70000000
)

type guest struct {
	*Process
	lines *bufio.Scanner
}

// waitFor reads the console up to a line that begins with prefix.
func (g guest) waitFor(t *testing.T, prefix string) string {
	t.Helper()
	var seen []string
	for g.lines.Scan() {
		line := strings.TrimSpace(g.lines.Text())
		if strings.HasPrefix(line, prefix) {
			return line
		}
		seen = append(seen, line)
	}
	t.Fatalf("no line %q on the console: %v: %s\n%s", prefix, g.lines.Err(), g.Stderr(), strings.Join(seen, "\n"))
	return ""
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: found %v, %v: want one", pattern, found, err)
	}
	return found[0]
}

func writeInitrd(t *testing.T, dir, arch, kernel string) string {
	t.Helper()
	agent := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", agent, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test's init: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := initramfs.Modules(only(t, filepath.Join(kernel, "usr/lib/modules/*")))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := initramfs.WriteBase(&archive, binary, modules); err != nil {
		t.Fatal(err)
	}
	if err := initramfs.WriteBoot(&archive, boot.Config{Version: 1, Hostname: "live"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func liveConfig(t *testing.T, arch string) Config {
	t.Helper()
	variable := kernelVar
	if arch == "arm64" {
		variable += "_ARM64"
	}
	kernel := os.Getenv(variable)
	if kernel == "" {
		t.Skipf("%s names no unpacked kernel package", variable)
	}
	host, err := Probe(t.Context(), arch, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Host: host, Self: self, SSHSocket: filepath.Join(dir, "s")}
	c.Machine = Machine{
		Arch: arch, CPUs: 2, Memory: 512 << 20, Kernel: only(t, filepath.Join(kernel, "boot/vmlinuz-*")), Initrd: writeInitrd(t, dir, arch, kernel),
		Cmdline: []string{"rdinit=" + boot.InitPath}, SSHPort: boot.SSHPort, MAC: "02:00:00:00:00:01",
		Disks: []Disk{{Serial: boot.RootSerial, Path: disk, Format: "raw"}},
	}
	if os.Getuid() == 0 {
		c.UID, c.GID = testUID, testUID
	}
	return c
}

func start(t *testing.T, c Config) guest {
	t.Helper()
	_ = os.Remove(c.SSHSocket)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.QMP.Close()
		p.Net.Close()
		p.Console.Close()
	})
	if err := p.Console.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return guest{Process: p, lines: bufio.NewScanner(p.Console)}
}

func TestBoots(t *testing.T) {
	c := liveConfig(t, "amd64")
	boots, _ := strconv.Atoi(os.Getenv(bootsVar))
	for i := range max(boots, 1) {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			began := time.Now()
			g := start(t, c)
			line := g.waitFor(t, "INIT REACHED")
			t.Logf("%s, %.2f s after the start", line, time.Since(began).Seconds())
		})
	}
}

func TestGuestFindsItsDiskAndQEMUIsNobody(t *testing.T) {
	g := start(t, liveConfig(t, "amd64"))
	g.waitFor(t, "DISK "+boot.RootSerial)
	g.waitFor(t, "READY")
	checkNobody(t, g.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.Quit(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Err(); err != nil {
		t.Errorf("after quit: %v", err)
	}
}

// TestOverlayOnItsBase also boots the default size, which microvm splits at 3 GiB, and
// finds a path with a comma in it.
func TestOverlayOnItsBase(t *testing.T) {
	c := liveConfig(t, "amd64")
	dir := filepath.Join(filepath.Dir(c.SSHSocket), "x,readonly=off")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	base, overlay := filepath.Join(dir, "base"), filepath.Join(dir, "overlay")
	if err := os.WriteFile(base, append([]byte("from the base"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	// The header names a backing file that must not be followed.
	create := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", overlay, "4M")
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.Machine.Memory = 4 << 30
	c.Machine.Disks[0] = Disk{Serial: boot.RootSerial, Path: overlay, Format: "qcow2", Backing: base}
	g := start(t, c)
	if line := g.waitFor(t, "DISK"); line != `DISK sbx-root "from the base"` {
		t.Errorf("got %s", line)
	}
}

func TestArm64Boots(t *testing.T) {
	g := start(t, liveConfig(t, "arm64"))
	t.Log(g.waitFor(t, "INIT REACHED"))
	g.waitFor(t, "DISK "+boot.RootSerial)
}

func ask1(t *testing.T, conn net.Conn, line string) (string, error) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}

func dial(t *testing.T, g guest) net.Conn {
	t.Helper()
	conn, err := g.DialSSH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSSHPortBeginsAgain(t *testing.T) {
	g := start(t, liveConfig(t, "amd64"))
	conn := dial(t, g) // before the guest is there: the line waits for it
	answer, err := ask1(t, conn, "hello")
	if err != nil || !strings.HasSuffix(answer, " hello") {
		t.Fatalf("got %q, %v", answer, err)
	}
	t.Log(answer)
	long := strings.Repeat("x", 300_000)
	if answer, err = ask1(t, conn, long); err != nil || !strings.HasSuffix(answer, " "+long) {
		t.Fatalf("a long line came back as %d bytes, %v", len(answer), err)
	}
	for i := range 5 {
		// The guest's process closes the port: the stream ends, the next works.
		if answer, err := ask1(t, conn, "close"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the stream went on when the guest closed the port: %q, %v", answer, err)
		}
		conn = dial(t, g)
		if answer, err = ask1(t, conn, "again"); err != nil || !strings.HasSuffix(answer, " again") {
			t.Fatalf("round %d: got %q, %v", i, answer, err)
		}
		// The host closes in the middle of a line: the guest begins a new one.
		io.WriteString(conn, "half a li")
		conn.Close()
		conn = dial(t, g)
		if answer, err = ask1(t, conn, "anew"); err != nil || !strings.HasSuffix(answer, " anew") {
			t.Fatalf("round %d, after the host closed: got %q, %v", i, answer, err)
		}
		t.Log(answer)
	}
	io.WriteString(conn, "off\n")
	select {
	case <-g.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("qemu did not end with the guest's power off")
	}
	if err := g.Err(); err != nil {
		t.Errorf("after power off: %v", err)
	}
}
