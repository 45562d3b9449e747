package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// debconf and maintainer scripts must find nobody to ask and nothing to start.
const policyRC = "#!/bin/sh\n# No daemon starts while the image is made.\nexit 101\n"

// excludes keeps documentation out of the image. Copyright files stay, as their licences want.
const excludes = `path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/groff/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
force-unsafe-io
`

// prepare makes the tree such that dpkg runs in it.
func (b *Builder) prepare() error {
	for path, text := range map[string]string{
		"var/lib/dpkg/status":     "",
		"var/lib/dpkg/available":  "",
		"etc/dpkg/dpkg.cfg.d/sbx": excludes,
		"usr/sbin/policy-rc.d":    policyRC,
		"etc/resolv.conf":         b.resolvConf(),
		"etc/fstab":               "# The agent mounts what there is.\n",
		"etc/hostname":            "sbx\n",
		"etc/hosts":               "127.0.0.1 localhost sbx\n",
		"etc/kernel-img.conf":     "do_symlinks = no\n",
	} {
		full := filepath.Join(target, path)
		if info, err := os.Stat(full); err == nil && info.Size() > 0 {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(target, "usr/sbin/policy-rc.d"), 0o755); err != nil {
		return err
	}
	// base-passwd's own way to make them needs them: programs that it runs look users up.
	for _, name := range []string{"passwd", "group"} {
		master := filepath.Join(target, "usr/share/base-passwd", name+".master")
		if err := copyFile(master, filepath.Join(target, "etc", name), 0o644); err != nil {
			return err
		}
	}
	return b.mountKernelFileSystems()
}

func (b *Builder) resolvConf() string {
	if b.Config.Net == nil {
		return "# no network while the image is made\n"
	}
	return "nameserver " + b.Config.Net.Gateway.String() + "\n"
}

func (b *Builder) mountKernelFileSystems() error {
	if err := bindDev(target); err != nil {
		return err
	}
	for _, m := range []struct{ dir, kind string }{{"dev/pts", "devpts"}, {"proc", "proc"}, {"sys", "sysfs"}, {"run", "tmpfs"}, {"tmp", "tmpfs"}} {
		full := filepath.Join(target, m.dir)
		if err := os.MkdirAll(full, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, full, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return os.Chmod(target+"/tmp", 0o1777|os.ModeSticky)
}

// unpack has dpkg lay out every package, in the plan's order.
func (b *Builder) unpack() error {
	args := []string{"--unpack", "--force-all", "--no-triggers"}
	for _, name := range b.plan.Packages {
		args = append(args, "/.sbx-build/"+name)
	}
	return run(chroot(target, "/usr/bin/dpkg", args...))
}

// configure runs the maintainer scripts. The second pass is for packages that
// had to wait for another's.
func (b *Builder) configure() error {
	first := run(chroot(target, "/usr/bin/dpkg", "--configure", "-a", "--force-confold", "--abort-after=50"))
	if first == nil {
		return nil
	}
	if err := run(chroot(target, "/usr/bin/dpkg", "--configure", "-a", "--force-confold")); err != nil {
		return errors.Join(first, err)
	}
	return nil
}

// cleanUp removes what is of this build and not of the image, and makes apt's
// cache, which takes an emulated guest half a minute.
func (b *Builder) cleanUp() error {
	if b.plan.Kernel {
		modules, err := filepath.Glob(filepath.Join(target, "usr/lib/modules/*"))
		if err != nil {
			return err
		}
		for _, dir := range modules {
			if err := run(chroot(target, "/sbin/depmod", filepath.Base(dir))); err != nil {
				return err
			}
		}
	}
	if err := run(chroot(target, "/usr/bin/apt-cache", "gencaches")); err != nil {
		return err
	}
	if err := b.sweep(); err != nil {
		return err
	}
	info := fmt.Sprintf("{\"version\":1,\"arch\":%q,\"packages\":%d}\n", b.plan.Arch, len(b.plan.Packages))
	return os.WriteFile(filepath.Join(target, "etc/sbx-image.json"), []byte(strings.ReplaceAll(info, "\\", "")), 0o644)
}

// sweep removes what provisioning and packages leave behind.
func (b *Builder) sweep() error {
	for _, pattern := range []string{
		".sbx-build", "usr/sbin/policy-rc.d", "var/log/*", "var/cache/debconf/*-old", "var/lib/dpkg/*-old", "etc/machine-id", "var/lib/dbus/machine-id",
		"root/.npm", "root/.cache", "boot/*", "var/cache/apt/archives/*.deb", "etc/ssh/ssh_host_*",
	} {
		found, err := filepath.Glob(filepath.Join(target, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}
