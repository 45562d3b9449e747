package initd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
	"github.com/sbx-vm/sbx/machine/guest/trust"
	"github.com/sbx-vm/sbx/sync/mirror/agent"
	"github.com/sbx-vm/sbx/sync/virtiofs/nudge"
)

// Where the agent keeps itself after it left the initramfs: a tmpfs, not the disk.
const (
	runDir     = "/run/sbx"
	agentPath  = runDir + "/agent"
	configPath = runDir + "/boot.json"
	cgroupDir  = "/sys/fs/cgroup"
	// self is the program that runs, also when its file was removed.
	self = "/proc/self/exe"
)

// Main is the agent: without a word it is PID 1, the words are its other lives; under the name
// of runc it is the step before it.
// It returns an exit status.
func Main(args []string) int {
	log := newLog(os.Stderr)
	word := ""
	if len(args) > 1 {
		word = args[1]
	}
	var err error
	switch {
	case len(args) > 0 && filepath.Base(args[0]) == "runc":
		err = trust.Runc(args)
	case word == "serve":
		err = serve(log)
	case word == sshd.SubsystemFiles:
		err = serveFiles()
	case word == sshd.SubsystemMirror:
		err = agent.Serve(context.Background(), os.Stdin, os.Stdout)
	case word == sshd.SubsystemNudge:
		err = nudge.Serve(os.Stdin)
	case word == "listen-exec" && len(args) > 2:
		err = listenExec(args[2:])
	case os.Getpid() == 1 && word == "stage2":
		err = newRoot(log)
	case os.Getpid() == 1:
		err = initramfs(log)
	default:
		err = fmt.Errorf("%q: this is the guest's first process, it is not to be started by hand", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, boot.LogPrefix+err.Error())
		if os.Getpid() == 1 {
			// A PID 1 that ends is a kernel panic, which ends the machine: the console has said why.
			powerOff()
		}
		return 1
	}
	return 0
}

// newLog writes to the console, where the lines of others are as well: ours begin with a word of their own.
func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(marked{w}, nil)) }

type marked struct{ io.Writer }

// Write gets one record at a time, which slog promises, and passes it on whole.
func (m marked) Write(p []byte) (int, error) {
	if _, err := m.Writer.Write(append([]byte(boot.LogPrefix), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func readConfig(path string) (boot.Config, error) {
	var c boot.Config
	data, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if c.Version != 1 {
		return c, fmt.Errorf("%s: version %d: this agent understands 1", path, c.Version)
	}
	return c, nil
}

// serve answers SSH for ever, one connection after the other.
func serve(log *slog.Logger) error {
	c, err := readConfig(configPath)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// Processes are bounded by cgroups. The kernel's own limit counts all of a user's,
	// so that one fork bomb would keep every other command from starting.
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		log.Error("limit of processes", "error", err)
	}
	protected := sshd.Protect()
	if protected != nil {
		log.Error("not protected when memory is short", "error", protected)
	}
	groups, err := sshd.NewCgroups(cgroupDir)
	if err != nil {
		log.Error("commands share one cgroup", "error", err)
	}
	server := &sshd.Server{
		Config:  c,
		Starter: sshd.Starter{User: c.User, Workdir: c.Workdir, Env: c.Env, Cgroups: groups, Protected: protected == nil},
		Shutdown: func() {
			if err := syscall.Kill(1, syscall.SIGTERM); err != nil {
				log.Error("ask for the end", "error", err)
			}
		},
		SetTime: setTime,
		Log:     log,
	}
	port, err := findPort(boot.SSHPort)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		conn, err := openPort(ctx, port)
		if err != nil {
			return err
		}
		if err := server.Serve(ctx, conn); err != nil {
			log.Info("connection ended", "error", err)
		}
	}
	return nil
}

// serveFiles is the sftp subsystem, already running as the user.
func serveFiles() error {
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	if err != nil {
		return err
	}
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// listenExec becomes a program that takes its listening socket from descriptor 3
// (sd_listen_fds(3)); LISTEN_PID must be the program's own pid, hence this step.
func listenExec(argv []string) error {
	// What dockerd's own unit for systemd says: containers before the daemon, and
	// as many descriptors as the kernel gives.
	err := errors.Join(
		os.WriteFile("/proc/self/oom_score_adj", []byte("-500"), 0),
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: mostFiles, Max: mostFiles}))
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbx-guest: limits:", err) // it runs with those that there are
	}
	env := append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return syscall.Exec(argv[0], argv, env)
}

// setTime follows the host's clock. It leaves a difference that is no more than
// the message's way: a clock that steps back by a millisecond every few seconds
// does more harm.
func setTime(t time.Time) error {
	if time.Since(t).Abs() < 200*time.Millisecond {
		return nil
	}
	tv := syscall.NsecToTimeval(t.UnixNano())
	return syscall.Settimeofday(&tv)
}

// findPort gives the device of a virtio-serial port by its name.
func findPort(name string) (string, error) {
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, p := range ports {
		data, err := os.ReadFile(p)
		if err == nil && string(trimLine(data)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(p)), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port %q", name)
}

func trimLine(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}
