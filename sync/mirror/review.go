//go:build unix

package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Change is one difference that Apply could bring to the host.
type Change struct {
	Path  string     `json:"path"` // bytes: escape it before it is printed
	Host  tree.Entry `json:"host"` // None: the guest made it
	Guest tree.Entry `json:"guest"`
	// ID names this change of this content on both sides. Apply takes nothing else.
	ID string `json:"id"`
	// Refused is why Apply does not take it unless it is forced; "" if it does.
	Refused string `json:"refused,omitempty"`
	// Never is true for what is not taken even then.
	Never bool `json:"never,omitempty"`
}

// Reasons of Change.Refused, beside those that are held in mode sync.
const (
	reasonExecutable = "executable"
	reasonConflict   = "changed on the host too"
)

func changeOf(path string, host, guest tree.Entry, refused string) Change {
	return Change{Path: path, Host: host, Guest: guest, ID: identify(path, host, guest), Refused: refused}
}

func identify(path string, host, guest tree.Entry) string {
	h := sha256.New()
	text := func(s string) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		io.WriteString(h, s) //nolint:errcheck // a hash takes all
	}
	text(path)
	for _, e := range []tree.Entry{host, guest} {
		text(fmt.Sprintf("%d %v %d %x", e.Kind, e.Exec, e.Size, e.Hash))
		text(e.Target)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Diff looks at all of both copies and gives what the guest changed, in the order of paths.
// It is for mode review; in mode sync it is what is about to be done.
func (s *Session) Diff(ctx context.Context) (out []Change, err error) {
	err = s.ask(ctx, func(ctx context.Context, e *engine) error {
		if err := e.look(ctx, []string{""}, []string{""}); err != nil {
			return err
		}
		out = e.changes()
		return nil
	})
	return out, err
}

// changes are what differs by the guest's doing.
func (e *engine) changes() []Change {
	o := e.options(true)
	o.Review = true
	plan := tree.Reconcile(e.base, e.h, e.g, o)
	seen := map[string]Change{}
	for _, a := range plan.Actions {
		if a.Side != tree.Host {
			continue
		}
		refused := ""
		if want := e.g[a.Path]; want.Kind == tree.File && want.Exec {
			refused = reasonExecutable
		}
		seen[a.Path] = changeOf(a.Path, e.h[a.Path], e.g[a.Path], refused)
	}
	for _, c := range plan.Conflicts {
		change := changeOf(c.Path, c.Host, c.Guest, reasonConflict)
		change.Never = c.Host.Kind == tree.Folder || c.Guest.Kind == tree.Folder
		seen[c.Path] = change
	}
	for _, h := range plan.Held {
		for p, entry := range e.g { // a held folder holds what is in it
			if tree.Within(p, h.Path) && !tree.Same(entry, e.h[p]) {
				seen[p] = e.held(p, h.Reason)
			}
		}
		if e.g[h.Path].Kind == tree.None {
			seen[h.Path] = e.held(h.Path, h.Reason)
		}
	}
	out := make([]Change, 0, len(seen))
	for _, c := range seen {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return tree.Compare(a.Path, b.Path) })
	return out
}

func (e *engine) held(p, reason string) Change {
	c := changeOf(p, e.h[p], e.g[p], reason)
	c.Never = reason != reasonProtected && reason != reasonOnTheWay
	return c
}

// Pick is a change that the user agreed to.
type Pick struct {
	ID    string `json:"id"`
	Force bool   `json:"force,omitempty"` // also a refused one
}

// Applied is what became of a pick. Reason is empty if it was taken.
type Applied struct {
	Change Change `json:"change"`
	Reason string `json:"reason,omitempty"`
}

// ErrStale says that a picked change is not there any more: one of the sides changed
// since it was shown.
var ErrStale = errors.New("it changed since it was shown: look again")

// Apply looks at both copies again and brings the picked changes to the host, if they
// are still the ones that were shown. Folders that they need come with them. What it
// writes is checked against the hashes of both sides at the moment of writing.
func (s *Session) Apply(ctx context.Context, picks []Pick) (out []Applied, err error) {
	err = s.ask(ctx, func(ctx context.Context, e *engine) error {
		if err := e.look(ctx, []string{""}, []string{""}); err != nil {
			return err
		}
		if out, err = e.take(ctx, picks); err != nil {
			return err
		}
		return e.save(ctx)
	})
	return out, err
}

// take carries the picked changes out.
func (e *engine) take(ctx context.Context, picks []Pick) ([]Applied, error) {
	now := map[string]Change{}
	for _, c := range e.changes() {
		now[c.ID] = c
	}
	out := make([]Applied, len(picks))
	var actions []tree.Action
	chosen := map[string]bool{}
	for i, p := range picks {
		c, ok := now[p.ID]
		out[i].Change = c
		switch {
		case !ok:
			out[i].Reason = ErrStale.Error()
		case c.Never || c.Refused != "" && !p.Force:
			out[i].Reason = c.Refused
		case !chosen[c.Path]:
			chosen[c.Path] = true
			actions = append(actions, e.actionsOf(c)...)
		}
	}
	actions = append(actions, e.foldersOf(chosen)...)
	tree.Order(actions)
	e.failures = map[string]string{}
	if err := e.apply(ctx, actions, map[tree.Side][]string{}); err != nil {
		return out, err
	}
	for i := range out {
		if why := e.failures[out[i].Change.Path]; why != "" && out[i].Reason == "" {
			out[i].Reason = why
		}
	}
	return out, nil
}

// actionsOf makes the host's copy what the guest's is at one path.
func (e *engine) actionsOf(c Change) []tree.Action {
	a := tree.Action{Side: tree.Host, Path: c.Path, Have: c.Host, Want: c.Guest}
	remove := a
	if remove.Op = tree.Remove; c.Host.Kind == tree.Folder {
		remove.Op = tree.RemoveFolder
	}
	switch {
	case c.Guest.Kind == tree.None:
		return []tree.Action{remove}
	case c.Guest.Kind == tree.Folder && c.Host.Kind == tree.None:
		a.Op = tree.Make
		return []tree.Action{a}
	case c.Guest.Kind == tree.Folder || c.Host.Kind == tree.Folder:
		a.Op, a.Have = tree.Put, tree.Entry{}
		if c.Guest.Kind == tree.Folder {
			a.Op = tree.Make
		}
		return []tree.Action{remove, a}
	}
	a.Op = tree.Put
	return []tree.Action{a}
}

// foldersOf makes the folders that chosen paths stand in.
func (e *engine) foldersOf(chosen map[string]bool) (out []tree.Action) {
	made := map[string]bool{}
	for p := range chosen {
		for dir := tree.Dir(p); dir != ""; dir = tree.Dir(dir) {
			if e.g[dir].Kind == tree.Folder && e.h[dir].Kind == tree.None && !chosen[dir] && !made[dir] {
				made[dir] = true
				out = append(out, tree.Action{Op: tree.Make, Side: tree.Host, Path: dir, Want: tree.Entry{Kind: tree.Folder}})
			}
		}
	}
	return out
}

// Read gives both versions of a changed file, for a diff to be shown, if each has at
// most so many bytes; nil for a side that has no such file.
func (s *Session) Read(ctx context.Context, path string, most int64) (host, guest []byte, err error) {
	err = s.ask(ctx, func(ctx context.Context, e *engine) (err error) {
		if e.h[path].Kind == tree.File {
			if host, err = readWhole(ctx, e.host, path, e.h[path], most); err != nil {
				return err
			}
		}
		if e.g[path].Kind == tree.File {
			guest, err = readWhole(ctx, e.guest, path, e.g[path], most)
		}
		return err
	})
	return host, guest, err
}

func readWhole(ctx context.Context, r replica, path string, e tree.Entry, most int64) ([]byte, error) {
	if e.Size > most {
		return nil, fmt.Errorf("%d bytes, more than %d", e.Size, most)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline(e.Size))
	defer cancel()
	f, err := r.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make([]byte, e.Size)
	if _, err := readAt(ctx, f, out, 0); err != nil && e.Size > 0 {
		return nil, err
	}
	if sha256.Sum256(out) != e.Hash {
		return nil, disk.ErrChanged
	}
	return out, nil
}
