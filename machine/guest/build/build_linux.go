// Package build makes an image from inside a builder microVM: a file system, the
// packages of the plan unpacked and configured by the distribution's own dpkg,
// npm, a few files, the provisioning steps. The host has resolved, fetched and
// checked everything; here is no network unless a provisioning step was given one.
//
// mkfs.ext4 and dpkg are programs of the image that is being made: the first comes
// from its packages into a tmpfs, the second from the essential packages, whose
// files are laid out by our own code before dpkg unpacks them again.
package build

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/trust"
)

const (
	target = "/target"
	// staging holds the payload on the new disk; a gigabyte does not fit in memory.
	staging = target + "/.sbx-build"
	toolDir = "/tools"
	// diskID is the file system's UUID and its folders' hash seed: the same for the
	// same image.
	diskID = "53425800-0000-4000-8000-000000000001"
)

// Builder is one build. Disk and Payload are block devices.
type Builder struct {
	Config  boot.Config
	Disk    string
	Payload string
	Log     *slog.Logger

	plan boot.Plan
}

// Run builds and leaves the disk unmounted. Each step is announced on the console,
// by which the host sees progress.
func (b *Builder) Run() error {
	payload, err := os.Open(b.Payload)
	if err != nil {
		return err
	}
	defer payload.Close()
	archive := tar.NewReader(payload)
	if err := b.readPlan(archive); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if err := b.makeFileSystem(archive); err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	return b.steps([]step{
		{"copy the packages", func() error { return b.stage(archive) }},
		{"lay out the essential packages", b.layOut},
		{"prepare", b.prepare},
		{"unpack the packages", b.unpack},
		{"configure the packages", b.configure},
		{"add files", b.addFiles},
		{"clean up", b.cleanUp},
		{"write the disk", b.finish},
		{"add the journal", b.addJournal},
	})
}

// RunLayer runs the provisioning steps in the system that is on the disk, and
// leaves it unmounted. There is no payload.
func (b *Builder) RunLayer() error {
	return b.steps([]step{
		{"open the image", b.open},
		{"run the provisioning steps", b.provision},
		{"clean up", b.sweep},
		{"write the disk", b.finish},
	})
}

// step is one part of a build.
type step struct {
	name string
	do   func() error
}

func (b *Builder) steps(steps []step) error {
	for _, s := range steps {
		begin := time.Now()
		fmt.Printf("sbx-build: step: %s\n", s.name)
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.Log.Info("step done", "step", s.name, "seconds", int(time.Since(begin).Seconds()))
	}
	return nil
}

func (b *Builder) readPlan(archive *tar.Reader) error {
	h, err := archive.Next()
	if err != nil {
		return err
	}
	if h.Name != boot.PlanName {
		return fmt.Errorf("begins with %q, not with %s", h.Name, boot.PlanName)
	}
	if err := json.NewDecoder(archive).Decode(&b.plan); err != nil {
		return err
	}
	if b.plan.Version != boot.PlanVersion {
		return fmt.Errorf("plan version %d: this agent builds from %d", b.plan.Version, boot.PlanVersion)
	}
	return nil
}

// makeFileSystem runs mkfs.ext4 from its packages, which come first. There is no
// journal while the image is made, which is quicker; addJournal makes it.
func (b *Builder) makeFileSystem(archive *tar.Reader) error {
	fmt.Println("sbx-build: step: make the file system")
	if err := os.MkdirAll(toolDir+"/debs", 0o755); err != nil {
		return err
	}
	for range b.plan.Mkfs {
		h, err := archive.Next()
		if err != nil {
			return err
		}
		path := filepath.Join(toolDir, filepath.FromSlash(h.Name))
		if err := writeFile(path, archive, 0o644); err != nil {
			return err
		}
		if err := extractDeb(path, toolDir); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if err := bindDev(toolDir); err != nil {
		return err
	}
	mkfs := chroot(toolDir, "/usr/sbin/mkfs.ext4", "-q", "-F", "-L", "sbx", "-m", "1", "-i", "16384", "-O", "^has_journal",
		"-E", "lazy_itable_init=1,nodiscard,resize=1073741824,hash_seed="+diskID, "-U", diskID, b.Disk)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return unix.Mount(b.Disk, target, "ext4", unix.MS_NOATIME, "nobarrier,discard")
}

// stage copies the payload to the new disk, the mkfs packages too: dpkg wants them.
func (b *Builder) stage(archive *tar.Reader) error {
	for _, name := range b.plan.Mkfs {
		path := filepath.FromSlash(name)
		if err := copyFile(filepath.Join(toolDir, path), filepath.Join(staging, path), 0o644); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(toolDir + "/debs"); err != nil {
		return err
	}
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("payload member %q is no plain file below the root", h.Name)
		}
		if err := writeFile(filepath.Join(staging, filepath.FromSlash(h.Name)), archive, 0o644); err != nil {
			return err
		}
	}
}

func (b *Builder) layOut() error {
	for _, name := range b.plan.Essential {
		if err := extractDeb(filepath.Join(staging, filepath.FromSlash(name)), target); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// addFiles writes npm, the sources and apt's lists.
func (b *Builder) addFiles() error {
	for _, f := range append(append([]boot.PlanFile(nil), b.plan.Files...), b.plan.Lists...) {
		mode := os.FileMode(0o644)
		if f.Mode != 0 {
			mode = os.FileMode(f.Mode) & os.ModePerm
		}
		if err := copyFile(filepath.Join(staging, filepath.FromSlash(f.Source)), filepath.Join(target, filepath.FromSlash(f.Path)), mode); err != nil {
			return err
		}
	}
	if b.plan.Npm == "" {
		return nil
	}
	const script = `d=/usr/local/lib/node_modules/npm
mkdir -p $d && tar -xzf "$1" --strip-components=1 --no-same-owner -C $d
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
chmod 0755 $d/bin/npm-cli.js $d/bin/npx-cli.js
rm -rf $d/docs $d/man`
	return run(chroot(target, "/bin/sh", "-ec", script, "sh", "/.sbx-build/"+b.plan.Npm))
}

// provision runs the recipe's own commands, as root in the new system. The host's
// extra authorities are there for as long as the commands run, and not in the
// image: each guest gets those of its own host.
func (b *Builder) provision() error {
	if len(b.Config.Provision) == 0 {
		return nil
	}
	env, err := b.trustHost()
	if err != nil {
		return err
	}
	for _, command := range b.Config.Provision {
		fmt.Printf("sbx-build: step: %.200q\n", command)
		step := chroot(target, "/bin/bash", "-ec", command)
		step.Env = append(step.Env, env...)
		if err := run(step); err != nil {
			return fmt.Errorf("%.200q: %w", command, err)
		}
	}
	return nil
}

// trustHost writes a bundle with the host's authorities to the tmpfs on /run and
// gives the variables that make programs read it.
func (b *Builder) trustHost() ([]string, error) {
	if b.Config.CACerts == "" {
		return nil, nil
	}
	own, err := os.ReadFile(target + trust.Bundle)
	if err != nil {
		return nil, err
	}
	const bundle = "/run/sbx-ca.crt"
	if err := os.WriteFile(target+bundle, append(append(own, '\n'), b.Config.CACerts...), 0o644); err != nil {
		return nil, err
	}
	var env []string
	for _, name := range trust.Names() {
		env = append(env, name+"="+bundle)
	}
	return env, nil
}

// finish gives unused blocks back to the host and closes the disk.
func (b *Builder) finish() error {
	if err := trim(target); err != nil {
		b.Log.Info("the disk takes no discard", "error", err)
	}
	unix.Sync()
	for _, dir := range []string{"/dev/pts", "/dev", "/proc", "/sys", "/run", "/tmp"} {
		if err := unix.Unmount(target+dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return unix.Unmount(target, 0)
}

// open mounts the system that a layer is made in. Nothing starts when a package is
// installed, as while the image was made.
func (b *Builder) open() error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(b.Disk, target, "ext4", unix.MS_NOATIME, "nobarrier,discard"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := os.WriteFile(target+"/etc/resolv.conf", []byte(b.resolvConf()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(target+"/usr/sbin/policy-rc.d", []byte(policyRC), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return b.mountKernelFileSystems()
}

// addJournal is for the guests that start from the image: they have no fsck, and
// their machine may end at any moment.
func (b *Builder) addJournal() error {
	proc := toolDir + "/proc" // tune2fs looks there whether the disk is mounted
	if err := os.MkdirAll(proc, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/proc", proc, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return run(chroot(toolDir, "/usr/sbin/tune2fs", "-O", "has_journal", "-J", "size=64", b.Disk))
}
