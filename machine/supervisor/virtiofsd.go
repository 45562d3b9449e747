package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/confine"
)

// virtiofsd serves the workspace in the place of our own server where the user chose it. It knows no guard, no mask
// and no journal. It confines itself: an ordinary user's process in namespaces of its own, whose root is the workspace,
// under its own seccomp filter.

func (s *Supervisor) foreignServer() bool {
	return !s.mirrored() && s.spec.Workspace.Server == machine.ServerVirtiofsd
}

// virtiofsdPlaces are where distributions have it besides the PATH.
func virtiofsdPlaces() []string {
	return []string{"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"}
}

func findVirtiofsd() (string, error) {
	for _, place := range virtiofsdPlaces() {
		if path, err := exec.LookPath(place); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("no virtiofsd is installed: apt-get install virtiofsd, or take workspace.server out of your own config.yaml")
}

func (s *Supervisor) startVirtiofsd() error {
	program, err := findVirtiofsd()
	if err != nil {
		return err
	}
	profile := confine.Profile{Namespaces: true}
	if profile.UID, profile.GID, err = s.projectOwner(); err != nil {
		return err
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = profile.UID, profile.GID
	}
	if uid == 0 {
		return fmt.Errorf("%q belongs to root, for whom virtiofsd cannot confine itself: give it another owner, or take workspace.server out of your own config.yaml",
			s.spec.Project)
	}
	listener, conn, err := s.shareSocket()
	if err != nil {
		return err
	}
	defer listener.Close()
	f := &fileServer{conn: conn, done: make(chan struct{})}
	if f.stderr, err = openRing(s.files.FilesLog(), logLimit); err != nil {
		return errors.Join(err, conn.Close())
	}
	if f.cmd, err = confine.Command(s.o.Self, profile, program, virtiofsdArgs(s.spec.Project, s.spec.User, uid, gid)...); err != nil {
		return errors.Join(err, conn.Close())
	}
	f.cmd.Stderr, f.cmd.ExtraFiles, f.cmd.Dir = f.stderr, []*os.File{listener}, "/"
	f.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := f.launch(); err != nil {
		return errors.Join(err, conn.Close())
	}
	s.share = f
	return s.adopt(f.cmd.Process.Pid)
}

// virtiofsdArgs: in its namespace the host's user is 0, for the guest the user that commands run as; whoever
// makes something in the guest makes it as that one.
func virtiofsdArgs(project string, user machine.User, uid, gid int) []string {
	const everyone = "4294967295"
	one := func(id int) string { return ":0:" + strconv.Itoa(id) + ":1:" }
	return []string{
		"--fd", strconv.Itoa(FileServerFD), "--shared-dir", project, "--log-level", "warn",
		"--sandbox", "namespace", "--seccomp", "kill", "--uid-map", one(uid), "--gid-map", one(gid),
		"--translate-uid", "squash-guest:0:0:" + everyone, "--translate-uid", "host:0:" + strconv.Itoa(user.UID) + ":1",
		"--translate-gid", "squash-guest:0:0:" + everyone, "--translate-gid", "host:0:" + strconv.Itoa(user.GID) + ":1",
	}
}

// shareSocket gives virtiofsd's end, which listens, and QEMU's, which is connected already: nobody else can come
// first, and the name is gone.
func (s *Supervisor) shareSocket() (listener, conn *os.File, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.files.ShareSocket(), Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("listen for the file server: %w", err)
	}
	defer l.Close() // unlinks it, too
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.files.ShareSocket(), Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("connect the file server: %w", err)
	}
	defer c.Close()
	if conn, err = c.File(); err != nil {
		return nil, nil, err
	}
	if listener, err = l.File(); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return listener, conn, nil
}
