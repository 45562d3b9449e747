package initd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// newRoot is the second life of PID 1: it sets the guest up, then supervises
// until it is asked to end. What is not vital is said on the console and left: a
// guest with a broken disk still takes commands.
func newRoot(log *slog.Logger) error {
	config, err := readConfig(configPath)
	if err != nil {
		return err
	}
	if err := mountAll([]mountPoint{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", nosuid, ""},
		{"cgroup2", cgroupDir, "cgroup2", nosuid, "nsdelegate"},
	}); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(boot.Config) error
	}{
		{"grow the root file system", func(boot.Config) error { return growRoot("/") }},
		{"device links", func(boot.Config) error { return deviceLinks() }},
		{"host name", setHostname},
		{"network", setUpNetwork},
		{"name server", nameServer},
		{"account", setUpAccount},
		{"certificates", trustCertificates},
		{"shared folders", mountShare},
		{"workspace", makeWorkdir},
		{"limits", func(boot.Config) error { return protectSelf() }},
	} {
		if err := step.do(config); err != nil {
			log.Error(step.name, "error", err)
		}
	}
	return supervise(log, config)
}

// growRoot extends ext4 to the end of its disk (EXT4_IOC_RESIZE_FS, linux
// fs/ext4/ioctl.c), while mounted. The overlay of a sandbox is larger than the image.
func growRoot(path string) error {
	const resizeFS = 0x40086610
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	disk, err := FindDisk(boot.RootSerial)
	if err != nil {
		return err
	}
	dev, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer dev.Close()
	size, err := unix.IoctlGetInt(int(dev.Fd()), unix.BLKGETSIZE64)
	if err != nil {
		return err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &stat); err != nil {
		return err
	}
	blocks := uint64(size) / uint64(stat.Bsize)
	if blocks-blocks/16 <= stat.Blocks { // Blocks leaves the file system's own out: close is full
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("to %d blocks: %w", blocks, errno)
	}
	return nil
}

// deviceLinks are what udev would make and shells expect.
func deviceLinks() error {
	var errs []error
	for link, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+link); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	for name, mode := range map[string]os.FileMode{"fuse": 0o666, "net/tun": 0o666} {
		if err := os.Chmod("/dev/"+name, mode); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func setHostname(c boot.Config) error {
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return err
	}
	hosts := "127.0.0.1 localhost\n127.0.1.1 " + c.Hostname + "\n::1 localhost ip6-localhost ip6-loopback\n"
	return errors.Join(
		os.WriteFile("/etc/hostname", []byte(c.Hostname+"\n"), 0o644),
		os.WriteFile("/etc/hosts", []byte(hosts), 0o644))
}

// shareDir is where the whole share is mounted; only root may look into it, the
// folders are bound to their places.
const shareDir = runDir + "/share"

func mountShare(c boot.Config) error {
	if len(c.Mounts) == 0 {
		return nil
	}
	if err := os.MkdirAll(runDir+"/share", 0o700); err != nil {
		return err
	}
	if err := (mountPoint{boot.ShareTag, shareDir, "virtiofs", unix.MS_NOSUID | unix.MS_NODEV, ""}).mount(); err != nil {
		return err
	}
	var errs []error
	for _, m := range c.Mounts {
		errs = append(errs, bind(m))
	}
	return errors.Join(errs...)
}

// makeWorkdir makes the folder that the workspace is copied to, the user's own, where no
// mount brought it along. The folders above it are root's, as for a mount.
func makeWorkdir(c boot.Config) error {
	if c.Workdir == "" {
		return nil
	}
	if _, err := os.Lstat(c.Workdir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(os.MkdirAll(c.Workdir, 0o755), os.Lchown(c.Workdir, c.User.UID, c.User.GID))
}

func bind(m boot.Mount) error {
	source := filepath.Join(shareDir, m.Export)
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, m.Target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %q: %w", m.Export, m.Target, err)
	}
	if !m.ReadOnly {
		return nil
	}
	// The server refuses writes; this only makes tools say so early.
	return unix.Mount("", m.Target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// What a process of the guest may open: the kernel's own limits (1024, 4096) are
// those of 1990, these are systemd's, which programs count on.
const (
	softFiles = 1024
	mostFiles = 524288
)

// protectSelf keeps the agent out of the way of the guest's troubles: its cgroup
// gets the processor first. That the kernel ends PID 1 when memory is short is not
// to be feared.
func protectSelf() error {
	dir := filepath.Join(cgroupDir, "agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: softFiles, Max: mostFiles}),
		os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0),
		os.WriteFile(filepath.Join(cgroupDir, "cgroup.subtree_control"), []byte("+cpu +pids +memory"), 0),
		os.WriteFile(filepath.Join(dir, "cpu.weight"), []byte("10000"), 0))
}

func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "sbx-guest: power off:", err)
	}
	// A PID 1 that returns is a panic; the host ends the machine.
	select {}
}

// ignoreMissing is for signals to processes that may have ended.
func ignoreMissing(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
