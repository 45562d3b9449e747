package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/mirror"
	"github.com/sbx-vm/sbx/sync/tree"
)

const (
	// flushGrace is what the mirror has at an orderly end for what it has not copied yet.
	flushGrace = 10 * time.Second
	// connectLimit is how long the guest's side may take to answer for the first time.
	connectLimit = 30 * time.Second
	// maxListed bounds each list of the status: all of a hostile tree's faults would not be read.
	maxListed = 20
	// maxContent is how large a file may be whose content is shown, in bytes.
	maxContent = 1 << 20
)

// mirrored is the copy of the workspace in the guest; nil in mode mount.
type mirrored struct {
	*mirror.Session
	journal *journal.Recording // nil where none can be kept
}

// mirrored tells whether the guest has a copy of the workspace instead of the folder itself.
func (s *Supervisor) mirrored() bool {
	return s.spec.Workspace.Mode == machine.ModeSync || s.spec.Workspace.Mode == machine.ModeReview
}

// startMirror begins to copy, and waits until both copies are in step for the first time:
// who starts a sandbox must not find an empty folder in it. Where they cannot be, the
// status says why, and the sandbox is up nevertheless.
func (s *Supervisor) startMirror(ctx context.Context) error {
	if !s.mirrored() {
		return nil
	}
	log, err := s.filesLog()
	if err != nil {
		return err
	}
	record, err := s.recordMirror(log)
	if err != nil {
		log.Warn("no journal: what the guest changes cannot be taken back", "error", err)
	}
	w := s.spec.Workspace
	cfg := mirror.Config{
		Root: s.spec.Project, State: s.files.MirrorState(), Review: w.Mode == machine.ModeReview, Protect: w.Protect, Mask: w.Mask, Ignore: w.Ignore, Log: log,
		Reserve: int64(w.Reserve),
		Remote: mirror.Remote{
			Dir: w.Target,
			Agent: func(ctx context.Context) (io.ReadWriteCloser, error) {
				return s.guest.subsystem(ctx, sshd.SubsystemMirror)
			},
			SFTP: s.guest.sftp,
		},
	}
	if record != nil {
		cfg.Journal = record.Keeper
	}
	session, err := mirror.Start(context.WithoutCancel(ctx), cfg)
	if err != nil {
		if record != nil {
			record.Close() //nolint:errcheck // nothing was recorded
		}
		return err
	}
	s.mirror = &mirrored{session, record}
	s.o.Tell(Message{Phase: PhaseCopy})
	return s.firstCopy(ctx)
}

// recordMirror begins the journal of what the mirror changes on the host.
func (s *Supervisor) recordMirror(log *slog.Logger) (*journal.Recording, error) {
	if err := os.MkdirAll(s.files.JournalDir(), 0o700); err != nil {
		return nil, err
	}
	return journal.Record(s.files.JournalDir(), exportWorkspace, "up", log)
}

// filesLog is what is said of the workspace's files, with the file server if there is one.
func (s *Supervisor) filesLog() (*slog.Logger, error) {
	if s.share != nil {
		return slog.New(slog.NewTextHandler(s.share.stderr, nil)), nil
	}
	log, err := openRing(s.files.FilesLog(), logLimit)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(log, nil)), nil
}

// firstCopy returns when both copies were in step once, or something keeps them from it
// that waiting does not mend.
func (s *Supervisor) firstCopy(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.Now().Add(s.patience(connectLimit))
	for {
		st := s.mirror.Status()
		if !st.Synced.IsZero() || st.State == mirror.Halted || st.State == mirror.Watching && len(st.Failed) > 0 {
			return nil
		}
		if st.State == mirror.Connecting && time.Now().After(late) {
			return fmt.Errorf("the guest takes no copy of the workspace: %s", st.Problem)
		}
		select {
		case <-tick.C:
		case <-s.qemu.Done():
			return errors.New("the machine ended while the workspace was copied")
		case <-s.stop:
			return errors.New("it was stopped while the workspace was copied")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flushMirror copies what there is left before the guest goes. In mode review that is what
// the host's user changed; what the guest changed stays on its disk.
func (s *Supervisor) flushMirror(ctx context.Context) {
	if s.mirror == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience(flushGrace))
	defer cancel()
	if err := s.mirror.Flush(ctx); err != nil {
		s.o.Log.Warn("the copies of the workspace are not the same at the end", "error", err)
	}
	s.mirror.Close()
}

func (m *mirrored) close() {
	if m == nil {
		return
	}
	m.Close()
	if m.journal != nil {
		m.journal.Close() //nolint:errcheck // what was recorded is written
	}
}

func (m *mirrored) checkpoint(label string) (int, error) {
	if m.journal == nil {
		return 0, errors.New("this sandbox keeps no journal: sbx logs --kind files says why")
	}
	return m.journal.Checkpoint(label)
}

// status is nil in mode mount.
func (m *mirrored) status() *machine.Mirror {
	if m == nil {
		return nil
	}
	st := m.Status()
	out := &machine.Mirror{
		State: string(st.State), Problem: st.Problem, Conflicts: first(st.Conflicts), Failed: first(st.Failed), Notes: first(st.Notes),
		HeldCount: len(st.Held), Waiting: st.Waiting, Files: st.Files, Copied: st.Bytes, Synced: st.Synced,
	}
	for _, h := range first(st.Halts) {
		out.Halts = append(out.Halts, mirror.HaltError{Halts: []tree.Halt{h}}.Error())
	}
	for _, h := range first(st.Held) {
		out.Held = append(out.Held, machine.Held{Path: h.Path, Reason: h.Reason})
	}
	return out
}

func first[T any](list []T) []T { return list[:min(len(list), maxListed)] }

// errNoMirror is what modes sync and review alone can do.
var errNoMirror = errors.New("the workspace is the folder itself (mode mount): there is no copy")

func (b backend) Mirror(ctx context.Context, do string) (machine.Mirror, error) {
	m := b.s.mirror
	if m == nil {
		return machine.Mirror{}, errNoMirror
	}
	var err error
	switch do {
	case control.MirrorFlush:
		err = m.Flush(ctx)
	case control.MirrorConfirm:
		err = m.Confirm(ctx)
	case control.MirrorReset:
		if err = m.Reset(ctx); err == nil {
			err = m.Flush(ctx)
		}
	default:
		err = fmt.Errorf("the mirror cannot %q", do)
	}
	return *m.status(), err
}

func (b backend) Changes(ctx context.Context) ([]control.Change, error) {
	if b.s.mirror == nil {
		return nil, errNoMirror
	}
	list, err := b.s.mirror.Diff(ctx)
	return changes(list), err
}

func changes(list []mirror.Change) []control.Change {
	out := make([]control.Change, 0, len(list))
	for _, c := range list {
		out = append(out, change(c))
	}
	return out
}

func change(c mirror.Change) control.Change {
	return control.Change{ID: c.ID, Path: c.Path, Host: version(c.Host), Guest: version(c.Guest), Refused: c.Refused, Never: c.Never}
}

func version(e tree.Entry) control.Version {
	if e.Kind == tree.None {
		return control.Version{}
	}
	return control.Version{Kind: e.Kind.String(), Exec: e.Exec, Size: e.Size, Target: e.Target}
}

func (b backend) Content(ctx context.Context, path string) (control.Content, error) {
	if b.s.mirror == nil {
		return control.Content{}, errNoMirror
	}
	host, guest, err := b.s.mirror.Read(ctx, path, maxContent)
	return control.Content{Host: host, Guest: guest}, err
}

// Apply is a checkpoint of its own: what it replaces can be taken back with it.
func (b backend) Apply(ctx context.Context, picks []control.Pick) ([]control.Applied, error) {
	m := b.s.mirror
	if m == nil {
		return nil, errNoMirror
	}
	if m.journal != nil && len(picks) > 0 {
		if _, err := m.checkpoint("apply"); err != nil {
			return nil, err
		}
	}
	wanted := make([]mirror.Pick, 0, len(picks))
	for _, p := range picks {
		wanted = append(wanted, mirror.Pick{ID: p.ID, Force: p.Force})
	}
	done, err := m.Apply(ctx, wanted)
	var out []control.Applied
	for i, a := range done {
		applied := control.Applied{Change: change(a.Change), Reason: a.Reason}
		applied.Change.ID = picks[i].ID // also of one that is gone
		out = append(out, applied)
	}
	return out, err
}
