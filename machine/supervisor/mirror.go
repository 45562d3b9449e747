package supervisor

import (
	"context"
	"io"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
	"github.com/sbx-vm/sbx/sync/mirror"
)

// flushGrace is what the mirror has at an orderly end for what it has not copied yet.
const flushGrace = 10 * time.Second

// mirrored tells whether the guest has a copy of the workspace instead of the folder itself.
func (s *Supervisor) mirrored() bool {
	return s.spec.Workspace.Mode == machine.ModeSync || s.spec.Workspace.Mode == machine.ModeReview
}

// startMirror begins to copy and does not wait for it: the status says how far it is.
func (s *Supervisor) startMirror(context.Context) error {
	if !s.mirrored() {
		return nil
	}
	w := s.spec.Workspace
	var err error
	s.mirror, err = mirror.Start(context.Background(), mirror.Config{
		Root: s.spec.Project, State: s.files.MirrorState(), Review: w.Mode == machine.ModeReview, Protect: w.Protect, Mask: w.Mask, Ignore: w.Ignore, Log: s.o.Log,
		Remote: mirror.Remote{
			Dir: w.Target,
			Agent: func(ctx context.Context) (io.ReadWriteCloser, error) {
				return s.guest.subsystem(ctx, sshd.SubsystemMirror)
			},
			SFTP: s.guest.sftp,
		},
	})
	return err
}

// flushMirror copies what there is left before the guest goes.
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
