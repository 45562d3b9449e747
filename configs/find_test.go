package configs

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFindWalksUp(t *testing.T) {
	w := newWorld(t, "name: up\n")
	deep := filepath.Join(w.opts.Dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(w.opts.Dir), "link")
	if err := os.Symlink(deep, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.opts.Dir, deep, link} {
		at := *w
		at.opts.Dir = dir
		if c := at.load(); c.Name != "up" || c.Project != w.opts.Dir || c.File != w.file() {
			t.Errorf("from %s: %+v", dir, c)
		}
	}
	if _, err := Load(Options{Dir: filepath.Join(deep, "none")}); err == nil {
		t.Error("a folder that is not there loads")
	}
}

// TestFilesThatAreNotBelieved: what somebody else could have put there.
func TestFilesThatAreNotBelieved(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"symlink": {func(p string) error { return os.Symlink("/etc/hostname", p) }, "is a symbolic link"},
		"folder":  {func(p string) error { return os.Mkdir(p, 0o755) }, "is not a regular file"},
		"fifo":    {func(p string) error { return syscall.Mkfifo(p, 0o644) }, "is not a regular file"},
		"world writable": {func(p string) error {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				return err
			}
			return os.Chmod(p, 0o666)
		}, "anybody can write to it"},
		"world writable folder": {func(p string) error {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				return err
			}
			return os.Chmod(filepath.Dir(p), 0o777)
		}, "anybody can write to it"},
	} {
		w := newWorld(t, "")
		if err := tc.make(w.file()); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(w.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestTrustedOwner(t *testing.T) {
	for _, tc := range []struct {
		owner, uid int
		sudo       string
		want       bool
	}{
		{1000, 1000, "", true}, {0, 1000, "", true}, {1001, 1000, "", false}, {1001, 1000, "1001", false},
		{1000, 0, "", false}, {1000, 0, "1000", true}, {1000, 0, "x", false}, {-1, 0, "", false}, {0, 0, "", true},
	} {
		if got := trustedOwner(tc.owner, tc.uid, map[string]string{"SUDO_UID": tc.sudo}); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestStrangersFileIsNotBelieved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	w := newWorld(t, "name: theirs\n")
	if err := os.Chown(w.file(), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(w.opts); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("%v", err)
	}
}

func TestUserFileMayBeALink(t *testing.T) {
	w := newWorld(t, "")
	real := filepath.Join(w.opts.Home, "dotfile.yaml")
	w.write(real, "resources: {cpus: 3}\n")
	if err := os.Symlink(real, filepath.Join(w.opts.ConfigDir, UserFileName)); err != nil {
		t.Fatal(err)
	}
	if c := w.load(); c.Resources.CPUs != 3 {
		t.Errorf("%+v", c.Resources)
	}
}
