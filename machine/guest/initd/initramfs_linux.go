package initd

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// diskLimit is how long the root disk may take to appear; it is there at once,
// except on a starved host.
const diskLimit = 30 * time.Second

type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	if err != nil && !errors.Is(err, syscall.EBUSY) { // EBUSY: the kernel did it already
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

func mountAll(points []mountPoint) error {
	for _, m := range points {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

const nosuid = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// initramfs is the first life of PID 1: up to the root disk.
func initramfs(log *slog.Logger) error {
	if err := mountAll([]mountPoint{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", nosuid, ""},
		{"sysfs", "/sys", "sysfs", nosuid, ""},
	}); err != nil {
		return err
	}
	config, err := readConfig(boot.Path)
	if err != nil {
		return err
	}
	if err := loadModules(boot.ModulesDir); err != nil {
		return err
	}
	if err := setTime(config.Time); err != nil {
		log.Error("set the clock", "error", err)
	}
	if config.Builder {
		return buildImage(log, config)
	}
	disk, err := FindDisk(boot.RootSerial)
	if err != nil {
		return err
	}
	root := mountPoint{disk, "/newroot", "ext4", unix.MS_NOATIME, ""}
	if err := root.mount(); err != nil {
		return err
	}
	return switchRoot("/newroot")
}

// loadModules loads what modules.order lists. A module that the kernel has
// already is no error.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, "modules.order"))
	if err != nil {
		return err
	}
	for name := range strings.Lines(string(order)) {
		name = strings.TrimSpace(name)
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		flags := 0
		if filepath.Ext(name) != ".ko" {
			flags = 4 // MODULE_INIT_COMPRESSED_FILE: the kernel unpacks it
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		f.Close()
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// FindDisk waits for the block device with a virtio serial number.
func FindDisk(serial string) (string, error) {
	for begin := time.Now(); time.Since(begin) < diskLimit; time.Sleep(5 * time.Millisecond) {
		found, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, path := range found {
			if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(path)), nil
			}
		}
	}
	return "", fmt.Errorf("no disk with the serial number %q appeared within %v", serial, diskLimit)
}

// switchRoot puts the disk in the place of the initramfs and begins the second
// life from a copy in memory.
func switchRoot(root string) error {
	if err := (mountPoint{"tmpfs", root + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=25%"}).mount(); err != nil {
		return err
	}
	if err := os.MkdirAll(root+runDir, 0o755); err != nil {
		return err
	}
	if err := copyFile(boot.InitPath, root+agentPath, 0o755); err != nil {
		return err
	}
	if err := copyFile(boot.Path, root+configPath, 0o600); err != nil {
		return err
	}
	// The initramfs stays in memory for as long as its files do.
	if err := os.RemoveAll(filepath.Dir(boot.Path)); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec(agentPath, []string{agentPath, "stage2"}, nil)
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
