package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// One stock guest mounts three folders of the host: by sbx' file server, with guard and
// journal as a sandbox has them, by Debian's virtiofsd as it comes, and by QEMU's own 9p.

// mountOps are the rows, in the order of the table.
func mountOps() [][2]string {
	return [][2]string{
		{"create", "create 1000 files"}, {"stat", "stat 1000 files"}, {"read", "read 1000 files"}, {"delete", "delete 1000 files"},
		{"gitstatus", "git status of 10,000 files"}, {"untar", "untar"}, {"rmtree", "remove that tree"},
		{"seqwrite", "write 64 MiB"}, {"seqread", "read 64 MiB"}, {"randread", "2000 random reads of 4 KiB"}, {"randwrite", "2000 random writes of 4 KiB"},
	}
}

const (
	mountOurs = "sbx"
	mountPeer = "virtiofsd"
	mount9p   = "9p"
	tarball   = "/root/tree.tar"
)

// mounts compares the file servers.
func mounts(ctx context.Context, o options, dir string) (rows []row, err error) {
	guest, err := openStock(ctx, filepath.Join(o.cache, "mount"), genericKernel, "git")
	if err != nil {
		return nil, err
	}
	// The interrupts of all shares go to one processor. Else every other device's go to the other one, which is the worse
	// one for who works there: a file server would gain or lose a twentieth by its place on the command line.
	guest.boot = "isolcpus=managed_irq,1"
	daemon, err := openVirtiofsd(ctx, filepath.Join(o.cache, "virtiofsd"))
	if err != nil {
		return nil, err
	}
	s := shares{o: o}
	defer s.close()
	if s.dir, err = memoryFolder(dir); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.dir)
	if err := errors.Join(s.folders(ctx), s.ours(ctx), s.virtiofsd(ctx, daemon)); err != nil {
		return nil, err
	}
	host, err := qemu.Probe(ctx, "amd64", os.Getenv("SBX_ACCEL"))
	if err != nil {
		return nil, err
	}
	run, err := guest.startWith(ctx, host.Accel, []*os.File{s.conn}, s.options()...)
	if err != nil {
		return nil, err
	}
	defer run.stop()
	if err := run.firstCommand(ctx); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, run); err != nil {
		return nil, err
	}
	took := map[string]map[string][]float64{mountOurs: {}, mountPeer: {}, mount9p: {}}
	// What came before decides too, most of all 9p. So ours and the peer come as often after it, after each other and after
	// themselves, in two rounds; and twice in each, because they are nearly as fast.
	orders := [][]string{
		{mountOurs, mountPeer, mountPeer, mountOurs, mount9p},
		{mountPeer, mountOurs, mountOurs, mountPeer, mount9p},
	}
	for i := range o.mountSamples {
		for _, share := range orders[i%2] {
			if err := s.measure(ctx, run, share, took[share]); err != nil {
				return nil, fmt.Errorf("%s: %w", share, err)
			}
		}
	}
	for _, op := range mountOps() {
		for _, peer := range []string{mountPeer, mount9p} {
			rows = append(rows, compare("mount: "+op[1], "ms", took[mountOurs][op[0]], peer, took[peer][op[0]]))
		}
	}
	return rows, nil
}

// memoryFolder makes a folder in memory where the host has such a place, else in dir. On a disk, what came just before
// decides: ext4 looks past each inode that was deleted within the last minutes, so that to make a file can take ten
// times as long for who comes after a deletion.
func memoryFolder(dir string) (string, error) {
	if memory, err := os.MkdirTemp("/dev/shm", "sbx-bench-"); err == nil {
		return memory, nil
	}
	return os.MkdirTemp(dir, "mount-")
}

// shares are the three folders and who serves them.
type shares struct {
	o        options
	dir      string
	conn     *os.File // of QEMU to our server
	children []*exec.Cmd
}

func (s *shares) folder(name string) string { return filepath.Join(s.dir, "mount-"+name) }

// folders makes the same content for each: a repository, since to make it in the guest takes minutes.
func (s *shares) folders(ctx context.Context) error {
	for _, name := range []string{mountOurs, mountPeer, mount9p} {
		repo := filepath.Join(s.folder(name), mountRepo)
		for d := range 100 {
			sub := filepath.Join(repo, fmt.Sprintf("d%d", d))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
			for f := range 100 {
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", f)), fmt.Appendf(nil, "%d %d\n", d, f), 0o644); err != nil {
					return err
				}
			}
		}
		for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=b", "-c", "user.email=b@example.com", "commit", "-q", "-m", "b"}} {
			if err := command(ctx, "git", append([]string{"-C", repo}, args...)...); err != nil {
				return err
			}
		}
	}
	return os.Mkdir(filepath.Join(s.dir, "mount-journal"), 0o700)
}

// ours starts sbx' file server as a supervisor does, but for the confinement.
func (s *shares) ours(ctx context.Context) error {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.conn = os.NewFile(uintptr(fds[0]), "share")
	theirs := os.NewFile(uintptr(fds[1]), "share")
	defer theirs.Close()
	config, err := json.Marshal(virtiofs.Config{
		Exports: []virtiofs.Export{{Name: "workspace", Path: s.folder(mountOurs)}}, GuestUID: 1000, GuestGID: 1000,
		Journal: filepath.Join(s.dir, "mount-journal"), Label: "bench",
	})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.o.sbx, "__fileserver")
	cmd.ExtraFiles, cmd.Stderr, cmd.Env = []*os.File{theirs}, os.Stderr, []string{"PATH=/usr/bin:/bin", "GOMEMLIMIT=256MiB"}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.children = append(s.children, cmd)
	_, err = in.Write(append(config, '\n')) // and stays open: its end is the server's
	return err
}

// openVirtiofsd takes Debian's package apart in dir, once: this host's release may have none.
func openVirtiofsd(ctx context.Context, dir string) (string, error) {
	daemon := filepath.Join(dir, "usr/libexec/virtiofsd")
	if _, err := os.Stat(daemon); err == nil {
		return dir, nil
	}
	mirror, err := hostMirror(ctx)
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Dir(dir), 0o700)); err != nil {
		return "", err
	}
	return dir, command(ctx, "mmdebstrap", "--variant=extract", "--include=virtiofsd,libc6,libgcc-s1,libcap-ng0,libseccomp2", "trixie", dir, mirror)
}

func (s *shares) socket() string { return filepath.Join(s.dir, "virtiofsd.sock") }

// virtiofsd starts it with its own release's C library, and without a sandbox, which costs it nothing.
func (s *shares) virtiofsd(ctx context.Context, root string) error {
	libs := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	cmd := exec.CommandContext(ctx, filepath.Join(libs, "ld-linux-x86-64.so.2"), "--library-path", libs, filepath.Join(root, "usr/libexec/virtiofsd"),
		"--socket-path", s.socket(), "--shared-dir", s.folder(mountPeer), "--sandbox", "none", "--seccomp", "none")
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.children = append(s.children, cmd)
	for range 500 {
		if _, err := os.Stat(s.socket()); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("virtiofsd made no socket: %v", cmd.Stderr)
}

// options attaches the three to the guest. Our connection is QEMU's descriptor 3.
func (s *shares) options() []string {
	return []string{
		"-object", "memory-backend-memfd,id=ram,size=2048M,share=on", "-machine", "memory-backend=ram",
		"-chardev", "socket,id=ours,fd=3", "-device", "vhost-user-fs-pci,chardev=ours,tag=" + mountOurs,
		"-chardev", "socket,id=peer,path=" + s.socket(), "-device", "vhost-user-fs-pci,chardev=peer,tag=" + mountPeer,
		"-fsdev", "local,id=plan9,path=" + s.folder(mount9p) + ",security_model=none,multidevs=remap", "-device", "virtio-9p-pci,fsdev=plan9,mount_tag=" + mount9p,
	}
}

// mountPoint is where a share's content is in the guest.
func mountPoint(share string) string {
	if share == mountOurs {
		return "/mnt/sbx/workspace"
	}
	return "/mnt/" + share
}

// prepare mounts and brings the program that works in the guest, and a tree to unpack.
func (s *shares) prepare(ctx context.Context, run *running) error {
	script := "set -e; mkdir -p /mnt/sbx /mnt/virtiofsd /mnt/9p; mount -t virtiofs sbx /mnt/sbx; mount -t virtiofs virtiofsd /mnt/virtiofsd; " +
		"mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap 9p /mnt/9p; tar -c -f " + tarball + " -C / usr/share/perl; " +
		// The guest's memory is touched once: who came first would pay for it.
		"mkdir /mnt/fill; mount -t tmpfs -o size=1600M fill /mnt/fill; dd if=/dev/zero of=/mnt/fill/x bs=1M count=1500 2>/dev/null; " +
		"umount /mnt/fill; cat > /root/bench; chmod +x /root/bench"
	program, err := staticBench(ctx, s.dir)
	if err != nil {
		return err
	}
	cmd := run.ssh(ctx, script)
	if cmd.Stdin, err = os.Open(program); err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("prepare the guest: %w: %s", err, lastLines(out))
	}
	return nil
}

// staticBench is this program for the guest, whose C library is another release's.
func staticBench(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "bench-guest")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", path, "github.com/sbx-vm/sbx/e2e/bench")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the guest's program: %w: %s", err, lastLines(out))
	}
	return path, nil
}

// measure has the guest work on one share once.
func (s *shares) measure(ctx context.Context, run *running, share string, into map[string][]float64) error {
	cmd := run.ssh(ctx, "/root/bench "+mountWord+" "+mountPoint(share)+" "+tarball)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return err
	}
	var took map[string]float64
	if err := json.Unmarshal(out, &took); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	for name, ms := range took {
		into[name] = append(into[name], ms)
	}
	fmt.Fprintln(os.Stderr, "bench: mount:", share, strings.TrimSpace(string(out)))
	return nil
}

func (s *shares) close() {
	if s.conn != nil {
		s.conn.Close()
	}
	for _, cmd := range s.children {
		cmd.Process.Kill() //nolint:errcheck // it may have ended with QEMU
		cmd.Wait()         //nolint:errcheck // killed
	}
}
