// Command init is PID 1 of the live tests' guest: it loads the modules that the
// initramfs lists, says how long the boot took, and echoes lines on the port
// sbx.ssh. "close" makes it close the port and open it again, "off" power off.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	_ = unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	_ = unix.Mount("proc", "/proc", "proc", 0, "")
	_ = unix.Mount("sys", "/sys", "sysfs", 0, "")
	loadModules("/sbx/modules")
	uptime, _ := os.ReadFile("/proc/uptime")
	boot, _ := os.ReadFile("/sbx/boot.json")
	console, _ := os.OpenFile("/dev/console", os.O_RDWR, 0)
	fmt.Fprintf(console, "INIT REACHED %s boot=%d bytes\n", strings.Fields(string(uptime))[0], len(boot))
	disks, _ := filepath.Glob("/sys/block/vd*/serial")
	for _, d := range disks {
		serial, _ := os.ReadFile(d)
		head := make([]byte, 16)
		if f, err := os.Open("/dev/" + filepath.Base(filepath.Dir(d))); err == nil {
			io.ReadFull(f, head)
			f.Close()
		}
		fmt.Fprintf(console, "DISK %s %q\n", strings.TrimSpace(string(serial)), strings.TrimRight(string(head), "\x00"))
	}
	fmt.Fprintln(console, "READY")
	for generation := 1; ; generation++ {
		serve(generation)
		time.Sleep(5 * time.Millisecond)
	}
}

func loadModules(dir string) {
	order, _ := os.ReadFile(filepath.Join(dir, "modules.order"))
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if err := unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE); err != nil {
			fmt.Println("module", name, err)
		}
		f.Close()
	}
}

func serve(generation int) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range names {
		name, _ := os.ReadFile(path)
		if strings.TrimSpace(string(name)) != "sbx.ssh" {
			continue
		}
		fd, err := syscall.Open("/dev/"+filepath.Base(filepath.Dir(path)), syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		echo(os.NewFile(uintptr(fd), "port"), generation)
	}
}

func echo(port *os.File, generation int) {
	defer port.Close()
	lines := bufio.NewReaderSize(port, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF || err != nil {
			return
		}
		switch strings.TrimSpace(line) {
		case "close":
			return
		case "off":
			_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
		fmt.Fprintf(port, "%d %s", generation, line)
	}
}
