// Package store keeps the files of sandboxes. It is the only package that spells
// their paths; docs/architecture.md has the same list for people.
//
//	DATA/sandboxes/NAME/   spec.json    what was asked for
//	                       record.json  who works on it now, or how the last run ended
//	                       rules.json   rules made by `sbx policy`
//	                       keys.json    SSH keys of this sandbox alone
//	                       disk.qcow2   the guest's disk
//	                       initrd.cpio  what the last start booted from
//	                       logs/        console, net, docker, files, supervisor
//	DATA/locks/NAME.life   held by the supervisor for as long as it lives
//	DATA/locks/NAME.work   held by a command that makes, starts or deletes
//	RUN/HASH.ctl, .ssh     sockets; HASH is of DATA and NAME, so paths stay short
//
// Who can take the life lock knows that the sandbox is down, whatever a file says.
// Files are written whole (temporary file, fsync, rename) and carry a version; a
// newer one is refused. DATA and the rest follow XDG; SBX_HOME puts all of it into
// one folder, and two values of it are two worlds that never meet.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/google/renameio/v2"

	"github.com/sbx-vm/sbx/machine"
)

// Store is where one user's sandboxes are.
type Store struct {
	data, cache, state, run string
}

// Open finds and makes the folders. getenv is the environment.
func Open(getenv func(string) string) (*Store, error) {
	s, err := locate(getenv)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{s.sandboxes(), s.locks(), s.cache, s.state} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make sbx's folder: %w (SBX_HOME names another place)", err)
		}
	}
	if s.run, err = runDir(getenv); err != nil {
		return nil, err
	}
	return s, nil
}

func locate(getenv func(string) string) (*Store, error) {
	if home := getenv("SBX_HOME"); home != "" {
		if !filepath.IsAbs(home) {
			return nil, fmt.Errorf("SBX_HOME=%q: must be an absolute path", home)
		}
		return &Store{data: filepath.Join(home, "data"), cache: filepath.Join(home, "cache"), state: filepath.Join(home, "state")}, nil
	}
	s := &Store{}
	for _, d := range []struct {
		into          *string
		xdg, fallback string
	}{
		{&s.data, "XDG_DATA_HOME", ".local/share"}, {&s.cache, "XDG_CACHE_HOME", ".cache"}, {&s.state, "XDG_STATE_HOME", ".local/state"},
	} {
		base := getenv(d.xdg)
		if !filepath.IsAbs(base) { // the XDG specification ignores relative ones
			home := getenv("HOME")
			if !filepath.IsAbs(home) {
				return nil, fmt.Errorf("HOME=%q is no place for sbx's files: set HOME or SBX_HOME", home)
			}
			base = filepath.Join(home, d.fallback)
		}
		*d.into = filepath.Join(base, "sbx")
	}
	return s, nil
}

func (s *Store) sandboxes() string { return filepath.Join(s.data, "sandboxes") }
func (s *Store) locks() string     { return filepath.Join(s.data, "locks") }

// DataDir is where disks are.
func (s *Store) DataDir() string { return s.data }

// CacheDir is where images and downloads are; it can be deleted while no sandbox runs.
func (s *Store) CacheDir() string { return s.cache }

// TrustFile is where the user's consents are written.
func (s *Store) TrustFile() string { return filepath.Join(s.state, "trust.json") }

// NoticeFile marks that a notice of this name has been shown to the user.
func (s *Store) NoticeFile(name string) string { return filepath.Join(s.state, "notice-"+name) }

// ValidName tells whether a name can be a sandbox's.
func ValidName(name string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,38}$`).MatchString(name)
}

// Sandbox gives the files of a sandbox, which need not exist.
func (s *Store) Sandbox(name string) *Sandbox {
	hash := sha256.Sum256([]byte(s.data + "\x00" + name))
	return &Sandbox{store: s, name: name, dir: filepath.Join(s.sandboxes(), name), socket: filepath.Join(s.run, hex.EncodeToString(hash[:8]))}
}

// Exists tells whether there is a sandbox of that name, whole or broken.
func (s *Store) Exists(name string) bool {
	if !ValidName(name) {
		return false
	}
	_, err := os.Lstat(s.Sandbox(name).dir)
	return err == nil
}

// Entry is one sandbox of a listing. Err says why its Spec cannot be read.
type Entry struct {
	Name string
	Spec machine.Spec
	Err  error
}

// List gives all sandboxes by name. One that is broken does not hide the others.
func (s *Store) List() ([]Entry, error) {
	dirs, err := os.ReadDir(s.sandboxes())
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes: %w", err)
	}
	var entries []Entry
	for _, d := range dirs {
		if !ValidName(d.Name()) {
			continue
		}
		e := Entry{Name: d.Name()}
		e.Spec, e.Err = s.Sandbox(e.Name).ReadSpec()
		entries = append(entries, e)
	}
	return entries, nil
}

// readJSON reads a versioned file.
func readJSON(path string, into any, version func() int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if v := version(); v != 1 {
		return fmt.Errorf("%s: version %d: this sbx understands 1, use the one that wrote it", path, v)
	}
	return nil
}

// writeJSON replaces a file whole.
func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
