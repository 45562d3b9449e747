package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/machine/confine"
	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// FileServerCommand is the hidden command of sbx that must call virtiofs.Main with
// [FileServerFD].
const (
	FileServerCommand = "__fileserver"
	FileServerFD      = 3
	// exportWorkspace is the workspace's name in the share and in the journal.
	exportWorkspace = "workspace"
	// journalPath is the folder of the journal as the file server reaches it: by the descriptor that it
	// inherits, because it may not be allowed to walk the folders above.
	journalPath = "/proc/self/fd/4"
)

// exports are the folders of the host that the guest sees, targets their places
// there, in the same order: the workspace first, unless the guest has a copy of it.
func (s *Supervisor) exports() []virtiofs.Export {
	var list []virtiofs.Export
	switch {
	case s.mirrored():
	case s.foreignServer():
		list = append(list, virtiofs.Export{Path: s.spec.Project}) // the share is the workspace
	default:
		list = append(list, virtiofs.Export{Name: exportWorkspace, Path: s.spec.Project})
	}
	for i, m := range s.spec.Workspace.Mounts {
		list = append(list, virtiofs.Export{Name: fmt.Sprintf("mount%d", i), Path: m.Source, ReadOnly: m.ReadOnly})
	}
	return list
}

func (s *Supervisor) targets() []string {
	var list []string
	if !s.mirrored() {
		list = append(list, s.spec.Workspace.Target)
	}
	for _, m := range s.spec.Workspace.Mounts {
		list = append(list, m.Target)
	}
	return list
}

// fileServer is the confined child that serves the share; nil where there is nothing to share.
type fileServer struct {
	cmd    *exec.Cmd
	stderr *ring
	conn   *os.File // QEMU's end

	// Of our own server alone, nil in another's.
	asking  sync.Mutex
	asked   int // commands so far
	stdin   io.WriteCloser
	answers chan virtiofs.Answer   // to commands
	changed chan []virtiofs.Change // by the host's user; what nobody takes is dropped
	done    chan struct{}
	err     error
}

// startFileServer starts the child. As root it becomes the workspace's owner; that
// being root, it keeps the id and loses every capability, so it is the owner of
// root's files and nothing more, and Landlock leaves it only the exports.
func (s *Supervisor) startFileServer(context.Context) error {
	switch {
	case len(s.exports()) == 0:
		return nil
	case s.foreignServer():
		return s.startVirtiofsd()
	}
	config := virtiofs.Config{
		Exports: s.exports(), GuestUID: uint32(s.spec.User.UID), GuestGID: uint32(s.spec.User.GID),
		Label: "up", Protect: s.spec.Workspace.Protect, Mask: s.spec.Workspace.Mask,
		Reserve: int64(s.spec.Workspace.Reserve),
	}
	if !s.mirrored() { // the mirror keeps the journal then
		config.Journal = journalPath
	}
	profile, err := s.fileProfile()
	if err != nil {
		return err
	}
	kept, err := s.journalDir(profile)
	if err != nil {
		return err
	}
	defer kept.Close()
	cmd, err := confine.Command(s.o.Self, profile, "/proc/self/exe", FileServerCommand)
	if err != nil {
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	child := os.NewFile(uintptr(fds[0]), "share")
	defer child.Close()
	f := &fileServer{cmd: cmd, conn: os.NewFile(uintptr(fds[1]), "share"), done: make(chan struct{})}
	if f.stderr, err = openRing(s.files.FilesLog(), logLimit); err != nil {
		return err
	}
	cmd.Stderr, cmd.ExtraFiles, cmd.Dir = f.stderr, []*os.File{child, kept}, "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GOMEMLIMIT=256MiB"}
	if f.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	f.answers, f.changed = make(chan virtiofs.Answer, maxLate), make(chan []virtiofs.Change, 16)
	if err := f.launch(); err != nil {
		return err
	}
	go f.listen(answers)
	s.share = f
	return errors.Join(s.adopt(cmd.Process.Pid), json.NewEncoder(f.stdin).Encode(config))
}

// journalDir opens the journal's folder, which belongs to the child's user.
func (s *Supervisor) journalDir(p confine.Profile) (*os.File, error) {
	if err := os.MkdirAll(s.files.JournalDir(), 0o700); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(s.files.JournalDir(), p.UID, p.GID); err != nil {
			return nil, err
		}
	}
	return os.Open(s.files.JournalDir())
}

const (
	// answerLimit is how long the file server may take for an answer: its disk may be slow.
	answerLimit = 10 * time.Second
	// maxLate answers, for which nobody waits any more, are kept until the next question.
	maxLate = 8
)

// maxSaid bounds one document of the child's, which a guest might have taken over.
const maxSaid = 8 << 20

// listen takes what the child says, until it ends.
func (f *fileServer) listen(answers io.Reader) {
	limit := &io.LimitedReader{R: answers}
	documents := json.NewDecoder(limit)
	for {
		limit.N = maxSaid
		var a virtiofs.Answer
		if documents.Decode(&a) != nil {
			return
		}
		if len(a.Changed) == 0 {
			select {
			case f.answers <- a:
			default: // nobody asked
			}
			continue
		}
		select {
		case f.changed <- a.Changed:
		default:
		}
	}
}

// pid is the child's, 0 without one.
func (f *fileServer) pid() int {
	if f == nil {
		return 0
	}
	return f.cmd.Process.Pid
}

// ended is closed when the child has ended, and nil without one.
func (f *fileServer) ended() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.done
}

// checkpoint begins a new one in the journal and gives its number.
func (f *fileServer) checkpoint(label string) (int, error) {
	if f == nil {
		return 0, errors.New("no file server serves the workspace")
	}
	if f.stdin == nil {
		return 0, errors.New("virtiofsd serves the workspace and keeps no journal: see workspace.server in your own config.yaml")
	}
	return f.ask(virtiofs.Command{Checkpoint: label})
}

// flush has all written to the journal that the guest did before, if there is one.
func (f *fileServer) flush() error {
	if f == nil || f.stdin == nil {
		return nil
	}
	_, err := f.ask(virtiofs.Command{Flush: true})
	return err
}

// ask puts a command to our own server.
func (f *fileServer) ask(c virtiofs.Command) (int, error) {
	f.asking.Lock()
	defer f.asking.Unlock()
	f.asked++
	c.Number = f.asked
	if err := json.NewEncoder(f.stdin).Encode(c); err != nil {
		return 0, fmt.Errorf("ask the file server: %w", err)
	}
	limit := time.After(answerLimit)
	for {
		select {
		case a := <-f.answers:
			switch {
			case a.Number != c.Number: // it came too late for who asked
			case a.Error != "":
				return 0, errors.New(a.Error)
			default:
				return a.ID, nil
			}
		case <-f.done:
			return 0, errors.New("the file server ended")
		case <-limit:
			return 0, errors.New("the file server does not answer")
		}
	}
}

func (s *Supervisor) fileProfile() (confine.Profile, error) {
	p := confine.Profile{Write: []string{journalPath}}
	for _, e := range s.exports() {
		info, err := os.Stat(e.Path)
		if err != nil {
			return p, fmt.Errorf("shared folder: %w", err)
		}
		if !info.IsDir() {
			return p, fmt.Errorf("shared folder %q is no folder", e.Path)
		}
		if e.ReadOnly {
			p.Read = append(p.Read, e.Path)
		} else {
			p.Write = append(p.Write, e.Path)
		}
	}
	var err error
	p.UID, p.GID, err = s.projectOwner()
	return p, err
}

// projectOwner is who a server becomes that root starts; 0 for the user's own.
func (s *Supervisor) projectOwner() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return 0, 0, nil
	}
	info, err := os.Stat(s.spec.Project)
	if err != nil {
		return 0, 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("no owner of %q is known", s.spec.Project)
	}
	return int(stat.Uid), int(stat.Gid), nil
}

// launch starts the child from a thread that lives as long as it: the death signal
// follows the thread.
func (f *fileServer) launch() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := f.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		f.err = f.cmd.Wait()
		f.stderr.Close()
		close(f.done)
	}()
	return <-started
}

// why says how the child ended; only after done.
func (f *fileServer) why() string {
	last := f.stderr.last()
	if f.err == nil {
		return last
	}
	return strings.TrimSpace(f.err.Error() + " " + last)
}

// kill ends the child, in order first: without QEMU it ends by itself.
func (f *fileServer) kill() {
	f.conn.Close()
	if f.stdin != nil {
		f.stdin.Close()
	}
	select {
	case <-f.done:
		return
	case <-time.After(time.Second):
	}
	f.cmd.Process.Kill() //nolint:errcheck // it may have ended in between
	<-f.done
}
