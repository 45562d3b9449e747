package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/trust"
)

// setUpAccount makes the user that commands run as, with the host user's ids, so
// that files look the same on both sides. It can be done again at every boot: a
// guest keeps its disk.
func setUpAccount(c boot.Config) error {
	u := c.User
	home := "/home/" + u.Name
	uid, gid := strconv.Itoa(u.UID), strconv.Itoa(u.GID)
	return errors.Join(
		editLines("/etc/passwd", 0o644, replaceUser(u.Name, uid, strings.Join([]string{u.Name, "x", uid, gid, "sbx", home, "/bin/bash"}, ":"))),
		editLines("/etc/shadow", 0o640, replaceUser(u.Name, "", u.Name+":*:19000:0:99999:7:::")),
		editLines("/etc/group", 0o644, func(lines []string) []string { return groupsWith(lines, u.Name, gid) }),
		os.MkdirAll("/etc/sudoers.d", 0o750),
		os.WriteFile("/etc/sudoers.d/sbx", []byte(sudoers(u.Name)), 0o440),
		makeHome(home, u.UID, u.GID))
}

// editLines rewrites a line file whole, so that a machine that ends meanwhile has
// the old one or the new one; one that is missing begins empty.
func editLines(path string, mode os.FileMode, edit func([]string) []string) error {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(data) == 0 {
		lines = nil
	}
	text := strings.Join(edit(lines), "\n") + "\n"
	if text == string(data) {
		return nil
	}
	next, err := renameio.NewPendingFile(path, renameio.WithPermissions(mode), renameio.WithExistingPermissions())
	if err != nil {
		return err
	}
	defer next.Cleanup() //nolint:errcheck // nothing is left to clean up after the replacement
	if _, err := next.WriteString(text); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil { // /etc/shadow belongs to a group
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := next.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
	}
	return next.CloseAtomicallyReplace()
}

// replaceUser drops the lines of a name, and of another user with its id: two
// names for one id would make `ls -l` show either.
func replaceUser(name, uid, line string) func([]string) []string {
	return func(lines []string) []string {
		lines = slices.DeleteFunc(lines, func(l string) bool {
			f := strings.Split(l, ":")
			return f[0] == name || uid != "" && len(f) > 2 && f[2] == uid
		})
		return append(lines, line)
	}
}

// groupsWith gives the user a group of its own, unless the id is taken, and
// makes it a member of sudo and docker.
func groupsWith(lines []string, name, gid string) []string {
	taken := false
	seen := map[string]bool{}
	for i, l := range lines {
		f := strings.Split(l, ":")
		if len(f) != 4 {
			continue
		}
		seen[f[0]] = true
		taken = taken || f[2] == gid
		if f[0] == "sudo" || f[0] == "docker" {
			lines[i] = withMember(f, name)
		}
	}
	if !seen["docker"] {
		lines = append(lines, "docker:x:"+freeGID(lines)+":"+name)
	}
	if !taken {
		lines = append(lines, name+":x:"+gid+":")
	}
	return lines
}

func withMember(f []string, name string) string {
	members := strings.Split(f[3], ",")
	if f[3] == "" {
		members = nil
	}
	if !slices.Contains(members, name) {
		members = append(members, name)
	}
	return strings.Join([]string{f[0], f[1], f[2], strings.Join(members, ",")}, ":")
}

func freeGID(lines []string) string {
	for gid := 900; ; gid++ {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, ":"+strconv.Itoa(gid)+":") }) {
			return strconv.Itoa(gid)
		}
	}
}

func makeHome(home string, uid, gid int) error {
	err := os.Mkdir(home, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	skeleton, err := filepath.Glob("/etc/skel/.*")
	if err != nil {
		return err
	}
	for _, from := range skeleton {
		to := filepath.Join(home, filepath.Base(from))
		if info, err := os.Stat(from); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := copyFile(from, to, 0o644); err != nil {
			return err
		}
		if err := os.Chown(to, uid, gid); err != nil {
			return err
		}
	}
	return os.Chown(home, uid, gid)
}

// sudoers lets the user become root without a password, and keep what makes programs trust the
// sandbox's authorities.
func sudoers(name string) string {
	return fmt.Sprintf("Defaults env_keep += \"%s\"\n%s ALL=(ALL:ALL) NOPASSWD: ALL\n", strings.Join(trust.Names(), " "), name)
}

// trustCertificates adds what the host names to the guest's store, and to that of containers.
func trustCertificates(c boot.Config) error {
	if c.CACerts == "" {
		return nil
	}
	if err := trust.Install("/", c.CACerts); err != nil {
		return err
	}
	return trust.InstallRunc(agentPath)
}
