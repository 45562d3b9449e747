package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrBacking means that a disk does not stand on the image that it should.
// A guest that could write its own disk's header could name any file of the
// host there and read it after the next start (CVE-2014-0142 and its kin).
var ErrBacking = errors.New("disk has an unexpected backing file")

// qemuImgTime bounds one call: creating and reading a header are instant.
const qemuImgTime = 30 * time.Second

// CreateOverlay makes a qcow2 disk of size bytes at path over base. It replaces
// nothing: a file at path is an error.
func CreateOverlay(ctx context.Context, path string, base Image, size int64) error {
	if size < RootSize {
		return fmt.Errorf("disk of %d bytes is smaller than its image, %d bytes", size, int64(RootSize))
	}
	root, err := filepath.Abs(base.Root)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create disk %s: there is one", path)
	}
	temp := path + ".new"
	defer os.Remove(temp) //nolint:errcheck // renamed when all went well
	if _, err := qemuImg(ctx, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, "--", temp, strconv.FormatInt(size, 10)); err != nil {
		return fmt.Errorf("create disk %s: %w", path, err)
	}
	if err := os.Chmod(temp, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// CheckOverlay reads the header of the disk at path, with its format stated and
// without opening what it names, and returns an error that wraps ErrBacking
// unless it stands on base alone.
func CheckOverlay(ctx context.Context, path string, base Image) error {
	out, err := qemuImg(ctx, "info", "--output=json", "-f", "qcow2", "-U", "--", path)
	if err != nil {
		return fmt.Errorf("check disk %s: %w", path, err)
	}
	var info struct {
		Format        string `json:"format"`
		Backing       string `json:"backing-filename"`
		FullBacking   string `json:"full-backing-filename"`
		BackingFormat string `json:"backing-filename-format"`
		Specific      struct {
			Data struct {
				DataFile string `json:"data-file"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("check disk %s: %w", path, err)
	}
	root, err := filepath.Abs(base.Root)
	if err != nil {
		return err
	}
	switch {
	case info.Format != "qcow2":
		return fmt.Errorf("%w: %s has format %q", ErrBacking, path, info.Format)
	case info.Backing != root || info.FullBacking != "" && info.FullBacking != root:
		return fmt.Errorf("%w: %s stands on %q, not on %q", ErrBacking, path, info.Backing, root)
	case info.BackingFormat != "raw":
		return fmt.Errorf("%w: %s takes its backing file as %q, not raw", ErrBacking, path, info.BackingFormat)
	case info.Specific.Data.DataFile != "":
		return fmt.Errorf("%w: %s keeps its data in %q", ErrBacking, path, info.Specific.Data.DataFile)
	}
	return nil
}

func qemuImg(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, qemuImgTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	var out, fault bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimSpace(fault.String()))
	}
	return out.Bytes(), nil
}
