package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// opensslFile is what OpenSSL reads by default besides its folder of hashed names, which only
// update-ca-certificates fills.
const opensslFile = "/usr/lib/ssl/cert.pem"

// Install adds authorities (PEM) to the store of the guest whose root folder is root: the file for
// the next run of update-ca-certificates, the bundle for now.
func Install(root, pem string) error {
	pem = strings.TrimSpace(pem)
	extra, bundle := filepath.Join(root, Extra), filepath.Join(root, Bundle)
	if err := os.MkdirAll(filepath.Dir(extra), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(extra, []byte(pem+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.Symlink(Bundle, filepath.Join(root, opensslFile)); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	if strings.Contains(string(old), pem) {
		return nil
	}
	f, err := os.OpenFile(bundle, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "\n%s\n", pem); err != nil {
		return err
	}
	return f.Sync()
}

// Folder holds the step before runc, first in dockerd's PATH.
const Folder = "/run/sbx/oci"

// InstallRunc puts the step before runc into [Folder]: the agent under runc's name.
func InstallRunc(agent string) error {
	if err := os.MkdirAll(Folder, 0o755); err != nil {
		return err
	}
	err := os.Symlink(agent, filepath.Join(Folder, "runc"))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
