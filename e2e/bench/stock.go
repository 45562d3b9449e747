package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stockPackages make the peer: what a Debian cloud guest needs to be reached by
// SSH. cloud-init is left out, which favours the peer.
const stockPackages = "systemd-sysv,udev,openssh-server,initramfs-tools,iproute2,sudo,ca-certificates"

// The kernels of the stock guest: the one that sbx' image has, and one that knows 9p.
const (
	cloudKernel   = "linux-image-cloud-amd64"
	genericKernel = "linux-image-amd64"
)

// stock is the peer's guest: a raw disk, a kernel and an initrd on the host.
type stock struct {
	packages                  string
	disk, kernel, initrd, key string
	boot                      string // more of the kernel's command line
}

// openStock builds the peer's disk once, with more packages, and keeps it in dir.
func openStock(ctx context.Context, dir string, more ...string) (stock, error) {
	s := stock{
		packages: strings.Join(append([]string{stockPackages}, more...), ","),
		disk:     filepath.Join(dir, "stock.img"), kernel: filepath.Join(dir, "vmlinuz"),
		initrd: filepath.Join(dir, "initrd"), key: filepath.Join(dir, "key"),
	}
	if _, err := os.Stat(s.disk); err == nil {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	root, err := os.MkdirTemp(dir, "root-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(root)
	fmt.Fprintln(os.Stderr, "bench: building the stock guest from packages (once, some minutes)")
	if err := s.build(ctx, root); err != nil {
		return s, fmt.Errorf("build the stock guest: %w", err)
	}
	return s, nil
}

func (s stock) build(ctx context.Context, root string) error {
	if err := os.RemoveAll(s.key); err != nil {
		return err
	}
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.key); err != nil {
		return err
	}
	mirror, err := hostMirror(ctx)
	if err != nil {
		return err
	}
	if err := command(ctx, "mmdebstrap", "--variant=minbase", "--include="+s.packages, "trixie", root, mirror); err != nil {
		return err
	}
	if err := s.configure(root); err != nil {
		return err
	}
	temp := s.disk + ".part"
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "stock", "-d", root, temp, "4G"); err != nil {
		return err
	}
	return os.Rename(temp, s.disk)
}

// configure makes the tree a guest that gets its address by DHCP and lets our key in.
func (s stock) configure(root string) error {
	public, err := os.ReadFile(s.key + ".pub")
	if err != nil {
		return err
	}
	files := map[string]string{
		"root/.ssh/authorized_keys":              string(public),
		"etc/fstab":                              "LABEL=stock / ext4 defaults 0 1\n",
		"etc/hostname":                           "stock\n",
		"etc/systemd/network/20-dhcp.network":    "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
		"etc/systemd/system-preset/0-net.preset": "enable systemd-networkd.service\n",
	}
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etc/systemd/network", "etc/systemd/system-preset"} {
		if err := os.Chmod(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	// networkd reads its files as a user of its own.
	if err := os.Chmod(filepath.Join(root, "etc/systemd/network/20-dhcp.network"), 0o644); err != nil {
		return err
	}
	if err := os.Symlink("/usr/lib/systemd/system/systemd-networkd.service",
		filepath.Join(root, "etc/systemd/system/multi-user.target.wants/systemd-networkd.service")); err != nil {
		return err
	}
	return errors.Join(moveOne(filepath.Join(root, "boot", "vmlinuz-*"), s.kernel), moveOne(filepath.Join(root, "boot", "initrd.img-*"), s.initrd))
}

func moveOne(pattern, to string) error {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d files match %q, want one", len(found), pattern)
	}
	return os.Rename(found[0], to)
}

// hostMirror is the Debian mirror that this host installs from.
func hostMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its mirror: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if uri := strings.TrimRight(strings.TrimSpace(line), "/"); strings.HasSuffix(uri, "/debian") {
			return uri, nil
		}
	}
	return "", errors.New("no Debian mirror among apt's sources")
}

// running is a started peer, reachable by SSH on a port of the loopback.
type running struct {
	stock
	port int
	qemu *exec.Cmd
}

// start runs the peer from a throw-away copy of its disk, with QEMU's own user
// network, as a person would without sbx. The caller stops it.
func (s stock) start(ctx context.Context, accel string) (*running, error) {
	return s.startWith(ctx, accel, nil)
}

// startWith is start with more of QEMU's options, and files that are its descriptors from 3 on.
func (s stock) startWith(ctx context.Context, accel string, files []*os.File, more ...string) (*running, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	cpu := "host"
	if accel == "tcg" {
		cpu = "max,la57=off"
	}
	args := append([]string{
		"-M", "q35", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", "2048",
		"-nographic", "-no-reboot", "-serial", "null", "-monitor", "none",
		"-kernel", s.kernel, "-initrd", s.initrd, "-append", "root=LABEL=stock ro quiet " + s.boot,
		"-drive", "if=virtio,format=raw,snapshot=on,file=" + s.disk,
		"-netdev", fmt.Sprintf("user,id=n,hostfwd=tcp:127.0.0.1:%d-:22", port), "-device", "virtio-net-pci,netdev=n",
		"-device", "virtio-rng-pci",
	}, more...)
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	qemu.ExtraFiles, qemu.Stderr = files, os.Stderr
	if err := qemu.Start(); err != nil {
		return nil, err
	}
	return &running{stock: s, port: port, qemu: qemu}, nil
}

func (r *running) stop() {
	r.qemu.Process.Kill() //nolint:errcheck // it may have ended by itself, Wait tells
	r.qemu.Wait()         //nolint:errcheck // killed: its status says nothing
}

func (r *running) ssh(ctx context.Context, more ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append([]string{
		"-i", r.key, "-p", strconv.Itoa(r.port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "root@127.0.0.1"}, more...)...)
}

// firstCommand waits until the guest has run a command.
func (r *running) firstCommand(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		if err := r.ssh(ctx, "true").Run(); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the stock guest took no command within 3 minutes")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// command runs a program and puts what it said into the error.
func command(ctx context.Context, name string, args ...string) error {
	return finish(exec.CommandContext(ctx, name, args...))
}

// finish runs a command whose output matters if it fails.
func finish(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, lastLines(out))
	}
	return nil
}

func lastLines(out []byte) string {
	const n = 5
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
