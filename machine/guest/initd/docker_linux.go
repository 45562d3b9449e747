package initd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
	"github.com/sbx-vm/sbx/machine/guest/trust"
)

const dockerLog = "/var/log/docker.log"

// keepDocker listens on Docker's socket from the start and runs dockerd from the
// first connection on. When dockerd ends, the next connection starts it again.
func keepDocker(log *slog.Logger, r *reaper, config boot.Config) {
	listener, err := listenDocker()
	if err != nil {
		log.Error("docker socket", "error", err)
		return
	}
	for {
		if err := waitForClient(listener); err != nil {
			log.Error("docker socket", "error", err)
			return
		}
		status, err := runDocker(r, listener, config)
		if errors.Is(err, errEnding) {
			return
		}
		if err != nil {
			log.Error("dockerd", "error", err)
		} else {
			log.Info("dockerd ended", "status", describe(status))
		}
		time.Sleep(time.Second) // a dockerd that cannot start must not eat the processor
	}
}

func listenDocker() (*os.File, error) {
	path := boot.DockerSocket
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	gid, err := groupID("docker")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		return nil, err
	}
	return l.File()
}

func groupID(name string) (int, error) {
	data, err := os.ReadFile("/etc/group")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); len(f) == 4 && f[0] == name {
			return strconv.Atoi(f[2])
		}
	}
	return 0, fmt.Errorf("no group %q", name)
}

// waitForClient returns when somebody connects; the connection stays in the
// queue for dockerd.
func waitForClient(listener *os.File) error {
	p := []unix.PollFd{{Fd: int32(listener.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, -1)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		}
	}
}

func runDocker(r *reaper, listener *os.File, config boot.Config) (syscall.WaitStatus, error) {
	out, err := os.OpenFile(dockerLog, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	argv := []string{self, "listen-exec", "/usr/sbin/dockerd", "-H", "fd://"}
	if config.Net != nil {
		// Containers must not send what the guest's own link cannot carry.
		argv = append(argv, "--mtu", strconv.Itoa(config.Net.MTU))
	}
	group, err := dockerCgroup()
	if err != nil {
		return 0, err
	}
	defer group.Close()
	env := []string{"PATH=" + trust.Folder + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	ended, err := r.start(argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{null.Fd(), out.Fd(), out.Fd(), listener.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())},
	})
	if err != nil {
		return 0, err
	}
	return <-ended, nil
}

// dockerCgroup keeps dockerd out of the agent's own. Containers get theirs from it
// in a folder beside it, and are bounded there: a fork bomb in a container leaves
// room for commands.
func dockerCgroup() (*os.File, error) {
	containers := filepath.Join(cgroupDir, "docker")
	if err := os.MkdirAll(containers, 0o755); err != nil {
		return nil, err
	}
	limit := strconv.Itoa(sshd.Processes() / 2)
	if err := os.WriteFile(filepath.Join(containers, "pids.max"), []byte(limit), 0); err != nil {
		return nil, err
	}
	dir := filepath.Join(cgroupDir, "dockerd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}
