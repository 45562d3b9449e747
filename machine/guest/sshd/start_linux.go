package sshd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// Starter starts commands as a user of the guest, each in a cgroup of its own.
type Starter struct {
	User    boot.User // who commands run as unless they say otherwise
	Workdir string
	Env     map[string]string
	// Cgroups is the cgroup2 folder that commands get their own folders in; empty
	// runs them where the agent is (tests).
	Cgroups *Cgroups
	// Plain runs commands as the agent's own user, whatever they ask for (tests).
	Plain bool
	// Protected says that the agent is out of the reach of the kernel's OOM killer.
	// What it starts must not be: a guest that finds nothing to kill panics.
	Protected bool

	forking sync.Mutex // held while the agent's own protection is down
}

// score is where the kernel keeps how likely it ends us when memory is short. A
// child begins with its parent's.
const score = "/proc/self/oom_score_adj"

// Protect takes the calling process out of the OOM killer's reach.
func Protect() error { return os.WriteFile(score, []byte("-1000"), 0) }

// launch starts cmd as mortal as any process. There is no way to say so for the
// child alone, so that the agent is mortal itself for the time of a fork.
func (s *Starter) launch(cmd *exec.Cmd) error {
	if !s.Protected {
		return cmd.Start()
	}
	s.forking.Lock()
	defer s.forking.Unlock()
	if err := os.WriteFile(score, []byte("0"), 0); err != nil {
		return err
	}
	err := cmd.Start()
	Protect() //nolint:errcheck // it could before
	return err
}

// account is a user as a command needs it.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// process is a started command.
type process struct {
	cmd     *exec.Cmd
	cgroups *Cgroups
	cgroup  *cgroup

	mu    sync.Mutex
	ended bool // its pid may be another's
}

func (s *Starter) account(name string) (account, error) {
	if name == "" || name == s.User.Name {
		a := account{name: s.User.Name, home: "/home/" + s.User.Name, shell: "/bin/bash", uid: uint32(s.User.UID), gid: uint32(s.User.GID)}
		a.groups = memberships(a.name)
		return a, nil
	}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		p := strings.Split(lines.Text(), ":")
		if len(p) != 7 || p[0] != name && p[2] != name {
			continue
		}
		uid, errUID := strconv.ParseUint(p[2], 10, 32)
		gid, errGID := strconv.ParseUint(p[3], 10, 32)
		if errUID != nil || errGID != nil {
			break
		}
		return account{name: p[0], home: p[5], shell: p[6], uid: uint32(uid), gid: uint32(gid), groups: memberships(p[0])}, nil
	}
	return account{}, fmt.Errorf("no user %q in the guest", name)
}

// memberships are the groups that name a user, from the guest's own file: root
// there may give them, it is root's guest.
func memberships(name string) []uint32 {
	data, err := os.ReadFile("/etc/group")
	if err != nil {
		return nil // a guest without /etc still runs commands
	}
	var out []uint32
	for line := range strings.Lines(string(data)) {
		p := strings.Split(strings.TrimSpace(line), ":")
		if len(p) != 4 {
			continue
		}
		for member := range strings.SplitSeq(p[3], ",") {
			if gid, err := strconv.ParseUint(p[2], 10, 32); err == nil && member == name {
				out = append(out, uint32(gid))
			}
		}
	}
	return out
}

// start runs a command on its streams, which are files so that no copying
// goroutine stands between. tty is the terminal, nil for none.
func (s *Starter) start(c Command, clientEnv map[string]string, stdin, stdout, stderr *os.File, tty bool) (*process, error) {
	who, err := s.account(c.User)
	if err != nil {
		return nil, err
	}
	base := map[string]string{
		"HOME": who.home, "USER": who.name, "LOGNAME": who.name, "SHELL": who.shell, "LANG": "C.UTF-8",
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	env := environ(base, s.Env, clientEnv, c.Env)
	path, err := lookPath(c.Argv[0], env)
	if err != nil {
		return nil, err
	}
	dir := s.dir(c, who)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("working folder: %w", err)
	}
	cmd := &exec.Cmd{Path: path, Args: c.Argv, Env: env, Dir: dir, Stdin: stdin, Stdout: stdout, Stderr: stderr}
	if c.login {
		cmd.Args = []string{"-" + filepath.Base(path)}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: tty}
	if !s.Plain {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
	}
	p := &process{cmd: cmd, cgroups: s.Cgroups}
	if s.Cgroups != nil {
		if p.cgroup, err = s.Cgroups.new(); err != nil {
			return nil, err
		}
		defer p.cgroup.dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(p.cgroup.dir.Fd())
	}
	if err := s.launch(cmd); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// dir is where a command starts: where it said, else the workspace, else home, else /.
func (s *Starter) dir(c Command, who account) string {
	if c.Dir != "" {
		return c.Dir
	}
	for _, dir := range []string{s.Workdir, who.home} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return "/"
}

// lookPath finds a program the way execvp does, in the command's own PATH.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	denied := false
	for dir := range strings.SplitSeq(path, ":") {
		full := filepath.Join(dir, name)
		info, err := os.Stat(full)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return full, nil
		}
		denied = true
	}
	if denied {
		return "", &os.PathError{Op: "run", Path: name, Err: syscall.EACCES}
	}
	return "", fmt.Errorf("%q: %w", name, errNotFound)
}

// wait returns when the command itself has ended; what it started may live on.
func (p *process) wait() error {
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	return err
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.ended
}

// signal reaches the process group that the command leads.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		syscall.Kill(-p.cmd.Process.Pid, sig) //nolint:errcheck // it may have ended
	}
}

// kill ends everything that the command started, wherever it moved in the process tree.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	if p.cgroup != nil {
		p.cgroup.kill()
	}
}

// overflowed tells whether the command and its children were too many.
func (p *process) overflowed() bool { return p.cgroup != nil && p.cgroup.overflowed() }

func (p *process) release() {
	if p.cgroup != nil {
		p.cgroups.release(p.cgroup)
	}
}
