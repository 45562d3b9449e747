package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// peer is a network for guests. Its guest's address, gateway and resolver are its own.
type peer struct {
	name           string
	addr, via, dns string
	server         string // what the guest calls the server: a name is asked for each connection's run
	start          func(ctx context.Context, l *lab, mtu int, s *side) (link *os.File, err error)
}

func peers() []peer {
	return []peer{
		{ours, "100.64.0.2/30", "100.64.0.1", "100.64.0.1", serverName, startSbx},
		{"gvisor-tap-vsock", "192.168.127.2/24", "192.168.127.1", "192.168.127.1", serverAddr, startGvproxy},
		{"passt", "192.0.2.2/24", "192.0.2.1", "192.0.2.3", serverAddr, startPasst},
		{"slirp4netns", "", "", "10.0.2.3", serverAddr, nil},
	}
}

// up starts the network and a guest on it. The caller stops the side, also after an error.
func (p peer) up(ctx context.Context, l *lab, mtu int) (*side, error) {
	s := &side{}
	args := []string{guestWord, "-mtu", strconv.Itoa(mtu), "-dns", p.dns, "-server", p.server}
	s.guest = exec.CommandContext(ctx, "/proc/self/exe", args...)
	s.guest.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	s.guest.Stderr = os.Stderr
	if p.start != nil {
		link, err := p.start(ctx, l, mtu, s)
		if err != nil {
			return s, fmt.Errorf("start %s: %w", p.name, err)
		}
		defer link.Close()
		s.guest.Args = append(s.guest.Args, "-addr", p.addr, "-via", p.via)
		s.guest.ExtraFiles = []*os.File{link}
	}
	in, err := s.guest.StdinPipe()
	if err != nil {
		return s, err
	}
	out, err := s.guest.StdoutPipe()
	if err != nil {
		return s, err
	}
	if err := s.guest.Start(); err != nil {
		return s, err
	}
	s.to, s.from = json.NewEncoder(in), json.NewDecoder(out)
	if p.start == nil {
		if err := startSlirp(ctx, mtu, s); err != nil {
			return s, fmt.Errorf("start %s: %w", p.name, err)
		}
	}
	_, err = s.do(order{Op: "ready"})
	return s, err
}

// wire is a socket pair like the one between QEMU and a network; the first end is
// the network's.
func wire() (network, guest *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range fds { // room for some frames of the largest size, which passt drops otherwise
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20); err != nil {
			return nil, nil, err
		}
	}
	return os.NewFile(uintptr(fds[0]), "network"), os.NewFile(uintptr(fds[1]), "guest"), nil
}

func startWithWire(s *side, network *exec.Cmd) (*os.File, error) {
	theirs, guests, err := wire()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	network.ExtraFiles = []*os.File{theirs}
	s.network = network
	return guests, network.Start()
}

func startSbx(ctx context.Context, _ *lab, mtu int, s *side) (*os.File, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", sbxWord, "-mtu", strconv.Itoa(mtu))
	cmd.Stderr = os.Stderr
	return startWithWire(s, cmd)
}

// startPasst runs it on an inherited socket, as libvirt does for QEMU.
func startPasst(ctx context.Context, _ *lab, mtu int, s *side) (*os.File, error) {
	return startWithWire(s, exec.CommandContext(ctx, "passt", "-f", "-q", "-4", "-F", "3", "-m", strconv.Itoa(mtu),
		"-a", "192.0.2.2", "-n", "24", "-g", "192.0.2.1", "-i", labLink, "-t", "none", "-u", "none",
		"-D", resolverAddr, "--dns-forward", "192.0.2.3"))
}

// startGvproxy runs the program that gvisor-tap-vsock ships, as Podman does.
func startGvproxy(ctx context.Context, l *lab, mtu int, s *side) (*os.File, error) {
	l.started++
	path := filepath.Join(l.dir, fmt.Sprintf("gvproxy-%d.sock", l.started))
	s.network = exec.CommandContext(ctx, l.gvproxy, "-mtu", strconv.Itoa(mtu), "-listen-qemu", "unix://"+path, "-log-file", path+".log")
	if err := s.network.Start(); err != nil {
		return nil, err
	}
	conn, err := dialWhenThere(ctx, path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

func dialWhenThere(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// startSlirp gives the guest's namespace a TAP of slirp4netns itself: it has no
// socket for QEMU, so no frame is copied on its way. Its figures are better for that.
func startSlirp(ctx context.Context, mtu int, s *side) error {
	ready, done, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	s.network = exec.CommandContext(ctx, "slirp4netns", "-c", "-m", strconv.Itoa(mtu), "-r", "3", strconv.Itoa(s.guest.Process.Pid), "tap0")
	s.network.ExtraFiles = []*os.File{done}
	err = s.network.Start()
	done.Close()
	if err != nil {
		return err
	}
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("slirp4netns did not come up: %w", err)
	}
	return nil
}
