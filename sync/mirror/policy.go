//go:build unix

package mirror

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// policy says which changes of the guest reach the host at all.
type policy struct {
	guard   *guard.Matcher
	mask    *guard.Mask // what is on neither side, as far as the mirror knows
	maxFile int64
	// refused are changes that were tried and will be again only when they are others.
	refused map[string]refusal
}

type refusal struct {
	want   tree.Entry
	reason string
}

// Reasons that sbx status shows.
const (
	reasonProtected = "protected"
	reasonOnTheWay  = "on the way to a protected path"
	reasonOutside   = "the link leads out of the workspace"
	reasonOwn       = "the name is the mirror's own"
)

func (p *policy) refuse(path string, want tree.Entry, reason string) {
	p.refused[path] = refusal{want, reason}
}

// hold is tree.Options.Hold.
func (p *policy) hold(name string, _, want tree.Entry) string {
	if disk.Reserved(name) {
		return reasonOwn
	}
	if r, ok := p.refused[name]; ok && (tree.Same(r.want, want)) {
		return r.reason
	}
	parts := strings.Split(name, "/")
	if p.guard.Protected(parts) && !p.vetted(parts, want) {
		return reasonProtected
	}
	switch want.Kind {
	case tree.Link:
		if len(p.guard.Leads(parts)) > 0 || gitFolder(name) ||
			guard.InDependencies(strings.Split(want.Target, "/")) && !guard.InDependencies(parts) { // less is protected there
			return reasonOnTheWay
		}
		if outside(name, want.Target) {
			return reasonOutside
		}
	case tree.File:
		if gitFolder(name) {
			return reasonOnTheWay
		}
		if want.Size > p.maxFile {
			return fmt.Sprintf("larger than %d bytes", p.maxFile)
		}
	}
	return ""
}

// vetted tells of a git configuration whose change is decided by its content, and of one
// that goes with the clone that it belongs to.
func (p *policy) vetted(parts []string, want tree.Entry) bool {
	if !p.guard.Vetted(parts) {
		return false
	}
	switch want.Kind {
	case tree.File:
		return want.Size <= guard.MaxConfig
	case tree.None:
		return len(parts) > 2 && !p.guard.Protected(parts[:len(parts)-1])
	}
	return false
}

func gitFolder(name string) bool { return guard.Match(".git", path.Base(name)) }

// outside tells whether a link's target is not below the workspace, read as text.
func outside(name, target string) bool {
	if target == "" || path.IsAbs(target) {
		return true
	}
	to := path.Join(tree.Dir(name), target)
	return to == ".." || strings.HasPrefix(to, "../")
}

// checkConfig decides about a git configuration by what was staged.
func (e *engine) checkConfig(s disk.Step) error {
	parts := strings.Split(s.Path, "/")
	if s.Side != tree.Host || !e.policy.guard.Vetted(parts) || s.Want.Kind != tree.File {
		return nil
	}
	before, errBefore := e.root.ReadFile(s.Path, guard.MaxConfig)
	after, errAfter := e.root.ReadStaged(s.Staged, guard.MaxConfig)
	err := errors.Join(errBefore, errAfter)
	if err == nil {
		err = guard.CheckConfig(parts, before, after)
	}
	if err != nil {
		e.policy.refuse(s.Path, s.Want, err.Error())
	}
	return err
}
