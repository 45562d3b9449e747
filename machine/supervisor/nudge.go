package supervisor

import (
	"encoding/json"
	"io"
	"path"

	"github.com/sbx-vm/sbx/machine/guest/sshd"
	"github.com/sbx-vm/sbx/sync/virtiofs"
	"github.com/sbx-vm/sbx/sync/virtiofs/nudge"
)

// nudgeGuest lets watchers in the guest hear of what the host's user changes in the shared folders, for as
// long as both live. It is a service to watchers alone: what fails is tried again with the next change.
func (s *Supervisor) nudgeGuest() {
	if s.share == nil {
		return
	}
	targets := map[string]string{}
	for i, e := range s.exports() {
		targets[e.Name] = s.targets()[i]
	}
	var stream io.WriteCloser
	for {
		select {
		case <-s.share.done:
			return
		case <-s.guest.ctx.Done():
			return
		case list := <-s.share.changed:
			stream = s.tellGuest(stream, list, targets)
		}
	}
}

// tellGuest sends changes and gives the stream for the next ones, nil if it broke.
func (s *Supervisor) tellGuest(stream io.WriteCloser, list []virtiofs.Change, targets map[string]string) io.WriteCloser {
	if stream == nil {
		opened, err := s.guest.subsystem(s.guest.ctx, sshd.SubsystemNudge)
		if err != nil {
			s.o.Log.Debug("tell the guest of changes", "error", err)
			return nil
		}
		stream = opened
	}
	out := json.NewEncoder(stream)
	for _, c := range list {
		target, ok := targets[c.Export]
		if !ok {
			continue
		}
		if err := out.Encode(nudge.Change{Path: []byte(path.Join(target, string(c.Path))), Plain: c.Plain}); err != nil {
			stream.Close()
			return nil
		}
	}
	return stream
}
