package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/image"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
)

// standInQEMU is qemu-system-x86_64 for the scripts: it answers what sbx probes,
// speaks QMP on the descriptor that sbx hands in, and is the guest itself: it
// reads boot.json out of the initramfs and serves the guest's SSH on the
// virtio-serial port. The guest's commands run on this machine, as the user of the
// test, in the project's own folder. Nobody is on its network.
func standInQEMU() {
	args := os.Args[1:]
	if answer, ok := probeAnswers()[strings.Join(args, " ")]; ok {
		fmt.Print(answer)
		return
	}
	if err := newStandIn(args).run(); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in qemu:", err)
		os.Exit(1)
	}
}

func probeAnswers() map[string]string {
	return map[string]string{
		"-version": "QEMU emulator version 10.0.13 (stand-in)\n",
		"-M help":  "Supported machines are:\nmicrovm              microvm (i386)\nvirt                 ARM Virtual Machine\n",
		"-help":    "usage: qemu-system-x86_64 [options]\n-sandbox on[,obsolete=allow|deny]\n",
	}
}

// standIn is one running machine.
type standIn struct {
	options map[string][]string // "-device" → its values
	config  boot.Config
	mu      sync.Mutex
	qmp     net.Conn
	off     chan struct{} // closed when the machine is to end
	once    sync.Once
}

func newStandIn(args []string) *standIn {
	s := &standIn{options: map[string][]string{}, off: make(chan struct{})}
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && strings.HasPrefix(args[i], "-") && !strings.HasPrefix(args[i+1], "-") {
			s.options[args[i]] = append(s.options[args[i]], args[i+1])
			i++
		} else {
			s.options[args[i]] = append(s.options[args[i]], "")
		}
	}
	return s
}

// field returns key's value in a QEMU option value such as "socket,id=x,fd=3".
func field(value, key string) string {
	for part := range strings.SplitSeq(value, ",") {
		if k, v, ok := strings.Cut(part, "="); ok && k == key {
			return v
		}
	}
	return ""
}

// chardev returns the descriptor behind the chardev of that id.
func (s *standIn) chardev(id string) (*os.File, error) {
	for _, value := range s.options["-chardev"] {
		if field(value, "id") != id {
			continue
		}
		fd, err := strconv.Atoi(field(value, "fd"))
		if err != nil {
			return nil, fmt.Errorf("chardev %q: %w", value, err)
		}
		return os.NewFile(uintptr(fd), id), nil
	}
	return nil, fmt.Errorf("no chardev %q", id)
}

func (s *standIn) conn(id string) (net.Conn, error) {
	file, err := s.chardev(id)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileConn(file)
}

func (s *standIn) listener(id string) (net.Listener, error) {
	file, err := s.chardev(id)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileListener(file)
}

func (s *standIn) run() error {
	if err := s.readConfig(); err != nil {
		return err
	}
	var err error
	if s.qmp, err = s.conn("qmp"); err != nil {
		return err
	}
	port, err := s.listener("ssh")
	if err != nil {
		return err
	}
	console, err := s.conn("console")
	if err != nil {
		return err
	}
	fmt.Fprintf(console, "stand-in: \x1b[1mbooted\x1b[0m %s\r\n", s.config.Hostname)
	fmt.Fprintf(console, "%slevel=INFO msg=\x1b[1mready\r\n", boot.LogPrefix)
	go s.serveQMP()
	go s.serveGuest(port)
	<-s.off
	fmt.Fprintf(console, "stand-in: powered off\r\n")
	return nil
}

// serveGuest is the guest's agent, one connection after the other.
func (s *standIn) serveGuest(port net.Listener) {
	server := &sshd.Server{
		Config:   s.config,
		Starter:  sshd.Starter{User: s.config.User, Workdir: s.config.Workdir, Env: s.config.Env, Plain: true},
		Shutdown: s.powerOff,
		SetTime:  func(time.Time) error { return nil },
		Log:      slog.New(slog.DiscardHandler),
	}
	for {
		conn, err := port.Accept()
		if err != nil {
			return
		}
		if err := server.Serve(context.Background(), conn); err != nil {
			fmt.Fprintln(os.Stderr, "stand-in guest:", err)
		}
	}
}

func (s *standIn) powerOff() { s.once.Do(func() { close(s.off) }) }

// serveQMP answers every command with an empty object, and ends the machine for
// quit and system_powerdown.
func (s *standIn) serveQMP() {
	s.say(`{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""}, "capabilities": ["oob"]}}`)
	lines := bufio.NewScanner(s.qmp)
	for lines.Scan() {
		var command struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id,omitempty"`
		}
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			continue
		}
		id := ""
		if len(command.ID) > 0 {
			id = fmt.Sprintf(`, "id": %s`, command.ID)
		}
		s.say(fmt.Sprintf(`{"return": %s%s}`, qmpReply(command.Execute), id))
		if command.Execute == "quit" || command.Execute == "system_powerdown" {
			s.say(`{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}, "timestamp": {"seconds": 1, "microseconds": 0}}`)
			s.powerOff()
		}
	}
	// sbx went away: a real QEMU is ended with it.
	s.powerOff()
}

func qmpReply(command string) string {
	switch command {
	case "query-status":
		return `{"status": "running", "running": true}`
	case "query-version":
		return `{"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""}`
	case "query-events", "query-commands", "query-block", "query-cpus-fast", "query-chardev":
		return "[]"
	default:
		return "{}"
	}
}

func (s *standIn) say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.qmp, line+"\r\n")
}

// readConfig takes the last boot.json out of the initramfs, as the kernel does: of
// two files with one name the later stands.
func (s *standIn) readConfig() error {
	if len(s.options["-initrd"]) != 1 {
		return errors.New("no initramfs")
	}
	archive, err := os.ReadFile(s.options["-initrd"][0])
	if err != nil {
		return err
	}
	data, err := lastFile(archive, strings.TrimPrefix(boot.Path, "/"))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &s.config)
}

// lastFile finds a file in concatenated "newc" archives (cpio(5)): a header of
// 6+13×8 hexadecimal digits, the name with a NUL, padding to 4, the content.
func lastFile(archive []byte, name string) ([]byte, error) {
	const header = 110
	at := bytes.LastIndex(archive, append([]byte(name), 0))
	if at < header || string(archive[at-header:at-header+6]) != "070701" {
		return nil, fmt.Errorf("no %q in the initramfs", name)
	}
	size, err := strconv.ParseUint(string(archive[at-header+54:at-header+62]), 16, 32)
	if err != nil {
		return nil, err
	}
	start := at - header + (header+len(name)+1+3)/4*4
	return archive[start : start+int(size)], nil
}

// standInImg is qemu-img: disks of the stand-in are never read.
func standInImg() {
	args := os.Args[1:]
	switch args[0] {
	case "create":
		if err := os.WriteFile(args[len(args)-2], []byte("stand-in disk over "+args[len(args)-4]), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "info":
		path, err := os.ReadFile(args[len(args)-1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		backing := strings.TrimPrefix(string(path), "stand-in disk over ")
		json.NewEncoder(os.Stdout).Encode(map[string]any{
			"format": "qcow2", "backing-filename": backing, "full-backing-filename": backing, "backing-filename-format": "raw",
		})
	}
}

// fakeImage puts images that only the stand-in can boot where `sbx up` looks for
// that of a folder without sbx.yaml, and `sbx run claude` for its own.
func fakeImage(dir string) error {
	recipe, err := image.LoadRecipe(configs.BaseDebian)
	if err != nil {
		return err
	}
	agent, err := configs.FindAgent("claude")
	if err != nil {
		return err
	}
	base := image.Image{
		ID: "0123456789abcdef", Recipe: recipe.Name, Key: recipe.With(nil).Key(runtime.GOARCH), Arch: runtime.GOARCH,
		Release: "6.12.0-stand-in", Created: time.Now(),
	}
	layer := base
	layer.ID, layer.Parent, layer.Key = "fedcba9876543210", base.ID, recipe.With(nil, agent.Run).Key(runtime.GOARCH)
	return errors.Join(writeFakeImage(dir, base), writeFakeImage(dir, layer))
}

func writeFakeImage(dir string, img image.Image) error {
	manifest, err := json.Marshal(img)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "images", img.ID)
	if err := os.MkdirAll(filepath.Join(folder, "modules"), 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"vmlinuz": "kernel", "modules/modules.order": "virtio_blk.ko.xz\n", "modules/virtio_blk.ko.xz": "module",
		"root.raw": "disk", "lock.json": "{}", "image.json": string(manifest),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
