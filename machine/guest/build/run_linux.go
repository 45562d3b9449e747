package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/image/deb"
)

// chroot is a program of another root.
func chroot(root, program string, args ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: program, Args: append([]string{program}, args...), Dir: "/",
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb",
			"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true", "SOURCE_DATE_EPOCH=0",
		},
		SysProcAttr: &syscall.SysProcAttr{Chroot: root},
	}
}

// run shows a program's output on the console.
func run(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

func bindDev(root string) error {
	if err := os.MkdirAll(root+"/dev", 0o755); err != nil {
		return err
	}
	return unix.Mount("/dev", root+"/dev", "", unix.MS_BIND, "")
}

func writeFile(path string, from io.Reader, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, from); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFile(to, in, mode)
}

// trim is fstrim(8).
func trim(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	const fiTrim = 0xc0185879 // FITRIM, linux/fs.h
	whole := struct{ start, length, minimum uint64 }{length: ^uint64(0)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fiTrim, uintptr(unsafe.Pointer(&whole))); errno != 0 {
		return errno
	}
	return nil
}

// extractDeb lays a package's files out below root, as dpkg would.
func extractDeb(path, root string) error {
	return deb.Data(path, func(data io.Reader) error {
		for archive := tar.NewReader(data); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := extract(root, h, archive); err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
		}
	})
}

// extract makes one member. Folders that are links already (usrmerge: /lib is
// usr/lib) stay links.
func extract(root string, h *tar.Header, data io.Reader) error {
	name := filepath.Clean("/" + h.Name)
	path := filepath.Join(root, name)
	mode := h.FileInfo().Mode()
	if name == "/" {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	case tar.TypeReg:
		os.Remove(path) //nolint:errcheck // it need not be there
		if err := writeFile(path, data, 0o600); err != nil {
			return err
		}
	case tar.TypeSymlink:
		os.Remove(path) //nolint:errcheck // see above
		return os.Symlink(h.Linkname, path)
	case tar.TypeLink:
		os.Remove(path) //nolint:errcheck // see above
		return os.Link(filepath.Join(root, filepath.Clean("/"+h.Linkname)), path)
	default:
		return fmt.Errorf("type %q in a package", h.Typeflag)
	}
	if err := os.Chown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
