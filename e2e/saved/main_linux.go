// Command saved is all that runs in the guest of the test that saves and loads a machine: it mounts the share and
// works in it without an end, with files and a folder that it opened before. Each round is a line in the file "rounds".
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

func main() {
	err := errors.Join(mount("dev", "/dev", "devtmpfs"), mount("proc", "/proc", "proc"), load(), mount(boot.ShareTag, "/share", "virtiofs"))
	if err == nil {
		err = work("/share/workspace")
	}
	if console, failed := os.OpenFile("/dev/console", os.O_WRONLY, 0); failed == nil {
		fmt.Fprintln(console, "FAILED", err)
	}
	for { // PID 1
		time.Sleep(time.Hour)
	}
}

func mount(source, target, kind string) error {
	return errors.Join(os.MkdirAll(target, 0o755), unix.Mount(source, target, kind, 0, ""))
}

// load loads the kernel's modules.
func load() error {
	order, err := os.ReadFile(filepath.Join(boot.ModulesDir, "modules.order"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join(boot.ModulesDir, name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

// work ends with the first error.
func work(dir string) error {
	rounds, err := os.OpenFile(filepath.Join(dir, "rounds"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	old, err := os.Open(filepath.Join(dir, "old"))
	if err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if err := round(dir, i, rounds, old, folder); err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func round(dir string, i int, rounds, old, folder *os.File) error {
	if _, err := fmt.Fprintf(rounds, "%06d\n", i); err != nil {
		return err
	}
	last := make([]byte, 7)
	if _, err := rounds.ReadAt(last, int64(i)*7); err != nil || string(last) != fmt.Sprintf("%06d\n", i) {
		return fmt.Errorf("read back %q: %w", last, err)
	}
	content := make([]byte, 100)
	if n, err := old.ReadAt(content, 0); !errors.Is(err, io.EOF) || string(content[:n]) != "old\n" {
		return fmt.Errorf("a file that was opened before: %q: %w", content[:n], err)
	}
	if _, err := folder.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if names, err := folder.Readdirnames(-1); err != nil || len(names) < 2 {
		return fmt.Errorf("a folder that was opened before: %v: %w", names, err)
	}
	path := filepath.Join(dir, fmt.Sprint("deep", i%10), "made")
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, last, 0o644), os.Remove(path))
}
