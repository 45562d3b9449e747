package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/initramfs"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/qmp"
	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// saved is a machine without a supervisor: the image's kernel, the program of e2e/saved, and a file server.
type saved struct {
	w       *world
	host    qemu.Host
	kernel  string
	initrd  string
	console string
	state   string
}

// TestVMSaved: a machine that works in its workspace is saved, and goes on in another QEMU with another file server,
// with the files that it had open, as if nothing had been.
func TestVMSaved(t *testing.T) {
	w := newWorld(t, "saved")
	s := newSaved(t, w)
	w.write(t, "old", "old\n")
	first := s.start(t)
	s.grows(t, "the guest works", 50)
	first.save(t, s.state)
	before := w.read(t, "rounds")
	if info, err := os.Stat(s.state); err != nil || info.Size() < 1<<20 {
		t.Fatalf("the state: %v, %v", info, err)
	}
	second := s.start(t, "-incoming", "exec:cat "+s.state)
	second.resume(t)
	s.grows(t, "the guest goes on", len(before)/7+50)
	second.stop(t)
	for i, line := range strings.Fields(w.read(t, "rounds")) {
		if line != fmt.Sprintf("%06d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func newSaved(t *testing.T, w *world) *saved {
	t.Helper()
	w.ok(t, "image", "build")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(cache, "sbx"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := images.Ls()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(i image.Image) bool { return i.Arch == runtime.GOARCH })
	if i < 0 {
		t.Fatalf("no image for %s among %d", runtime.GOARCH, len(list))
	}
	host, err := qemu.Probe(t.Context(), runtime.GOARCH, os.Getenv("SBX_ACCEL"))
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(w.base, name) }
	s := &saved{w: w, host: host, kernel: list[i].Kernel, initrd: in("initrd"), console: in("console"), state: in("state")}
	s.writeInitrd(t, list[i].Modules)
	return s
}

// writeInitrd makes the program the guest's only one.
func (s *saved) writeInitrd(t *testing.T, dir string) {
	t.Helper()
	program := filepath.Join(s.w.base, "program")
	build := exec.Command("go", "build", "-o", program, "./saved")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v %s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := initramfs.Modules(dir)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := initramfs.WriteBase(&archive, binary, modules); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.initrd, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// grows waits until the guest wrote so many lines.
func (s *saved) grows(t *testing.T, what string, lines int) {
	t.Helper()
	failed := func() string {
		console, err := os.ReadFile(s.console)
		if err != nil || !bytes.Contains(console, []byte("FAILED")) {
			return ""
		}
		return string(console)
	}
	within(t, time.Minute, what, func() bool {
		info, err := os.Stat(filepath.Join(s.w.project, "rounds"))
		return err == nil && info.Size() >= int64(7*lines) || failed() != ""
	})
	if why := failed(); why != "" {
		t.Fatalf("%s: %s", what, why)
	}
}

// savedRun is one QEMU and its file server.
type savedRun struct {
	qemu, files *exec.Cmd
	monitor     *qmp.Client
	errs        *os.File // of both
}

// start starts both. The second time the machine waits for resume.
func (s *saved) start(t *testing.T, more ...string) *savedRun {
	t.Helper()
	r := &savedRun{}
	var err error
	if r.errs, err = os.CreateTemp(s.w.base, "errors"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.errs.Close() })
	share := r.serve(t, s.w)
	defer share.Close()
	monitor, ours := socketPair(t)
	defer monitor.Close()
	board := []string{"-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,memory-backend=ram", "-bios", "qboot.rom"}
	console := "ttyS0"
	if runtime.GOARCH == "arm64" {
		board, console = []string{"-M", "virt,gic-version=max,memory-backend=ram"}, "ttyAMA0"
	}
	cpu := "host"
	if s.host.Accel == "tcg" {
		cpu = "max"
		if runtime.GOARCH == "amd64" {
			cpu = "max,la57=off"
		}
	}
	args := slices.Concat([]string{
		"-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-m", "256", "-global", "virtio-mmio.force-legacy=false",
		"-accel", s.host.Accel, "-cpu", cpu, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:" + s.console,
		"-kernel", s.kernel, "-initrd", s.initrd, "-append", "console=" + console + " quiet rdinit=" + boot.InitPath,
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=share,fd=4", "-device", "vhost-user-fs-device,chardev=share,tag=" + boot.ShareTag,
	}, board, more)
	r.qemu = exec.Command(s.host.Binary, args...)
	r.qemu.ExtraFiles, r.qemu.Stderr = []*os.File{monitor, share}, r.errs
	if err := r.qemu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.qemu.Process.Kill(); r.qemu.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r.monitor, err = qmp.New(ctx, ours); err != nil {
		t.Fatalf("the monitor: %v: %s", err, r.said())
	}
	t.Cleanup(func() { r.monitor.Close() })
	return r
}

// serve starts a file server for the project and gives QEMU's end of its connection.
func (r *savedRun) serve(t *testing.T, w *world) *os.File {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[0]), "share")
	defer theirs.Close()
	r.files = w.command("__fileserver")
	r.files.ExtraFiles, r.files.Stderr = []*os.File{theirs}, r.errs
	in, err := r.files.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.files.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.files.Process.Kill(); r.files.Wait() })
	config := virtiofs.Config{Exports: []virtiofs.Export{{Name: "workspace", Path: w.project}}, GuestUID: 1000, GuestGID: 1000}
	if err := json.NewEncoder(in).Encode(config); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[1]), "share")
}

func socketPair(t *testing.T) (theirs *os.File, ours net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[1]), "ours")
	defer file.Close()
	if ours, err = net.FileConn(file); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "theirs"), ours
}

// said is what QEMU and the server complained about.
func (r *savedRun) said() string {
	data, err := os.ReadFile(r.errs.Name())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// ask runs a command of the monitor.
func (r *savedRun) ask(t *testing.T, command string, args, reply any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.monitor.Execute(ctx, command, args, reply); err != nil {
		t.Fatalf("%s: %v: %s", command, err, r.said())
	}
}

// save writes the machine's state to a file and ends QEMU and the server.
func (r *savedRun) save(t *testing.T, path string) {
	t.Helper()
	r.ask(t, "stop", nil, nil)
	r.ask(t, "migrate", map[string]string{"uri": "exec:cat > " + path}, nil)
	var now struct{ Status string }
	within(t, 2*time.Minute, "the machine is saved", func() bool {
		r.ask(t, "query-migrate", nil, &now)
		return now.Status == "completed" || now.Status == "failed"
	})
	if now.Status != "completed" {
		t.Fatalf("the machine was not saved: %s", r.said())
	}
	r.stop(t)
}

// resume lets a loaded machine run.
func (r *savedRun) resume(t *testing.T) {
	t.Helper()
	var now struct{ Status string }
	within(t, 2*time.Minute, "the machine is loaded", func() bool {
		r.ask(t, "query-status", nil, &now)
		return now.Status != "inmigrate"
	})
	r.ask(t, "cont", nil, nil)
}

// stop ends QEMU; the file server ends with it.
func (r *savedRun) stop(t *testing.T) {
	t.Helper()
	r.ask(t, "quit", nil, nil)
	if err := r.qemu.Wait(); err != nil {
		t.Errorf("QEMU: %v: %s", err, r.said())
	}
	if err := r.files.Wait(); err != nil {
		t.Errorf("the file server: %v: %s", err, r.said())
	}
}
