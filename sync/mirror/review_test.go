//go:build unix

package mirror

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sbx-vm/sbx/sync/tree"
)

func newReview(t *testing.T) *rig {
	r := newRig(t, func(c *Config) { c.Review = true })
	for _, f := range []string{"edit", "del", "both", "dir/x", ".git/hooks/pre-push"} {
		write(t, r.host, f, "old "+f)
	}
	r.start(t)
	r.flush(t)
	write(t, r.guest, "edit", "new")
	write(t, r.guest, "a/b/new", "new")
	os.Remove(filepath.Join(r.guest, "del"))
	write(t, r.guest, "run.sh", "#!/bin/sh")
	os.Chmod(filepath.Join(r.guest, "run.sh"), 0o755)
	write(t, r.guest, ".git/hooks/pre-push", "evil")
	os.Symlink("/etc/passwd", filepath.Join(r.guest, "link"))
	write(t, r.guest, "both", "the guest's")
	write(t, r.host, "both", "the host's")
	return r
}

func (r *rig) diff(t *testing.T) map[string]Change {
	t.Helper()
	changes, err := r.Diff(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Change{}
	for _, c := range changes {
		out[c.Path] = c
	}
	return out
}

func (r *rig) take(t *testing.T, picks ...Pick) []Applied {
	t.Helper()
	out, err := r.Apply(context.Background(), picks)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReviewShowsAndTakesNothingByItself(t *testing.T) {
	r := newReview(t)
	r.flush(t)
	got := map[string]string{}
	for p, c := range r.diff(t) {
		got[p] = c.Refused
	}
	for p, want := range map[string]string{
		"edit": "", "a": "", "a/b": "", "a/b/new": "", "del": "", "run.sh": reasonExecutable, ".git/hooks/pre-push": reasonProtected,
		"link": reasonOutside, "both": reasonConflict,
	} {
		if reason, ok := got[p]; !ok || reason != want {
			t.Errorf("%s: shown %v, %q, want %q", p, ok, reason, want)
		}
		delete(got, p)
	}
	if len(got) > 0 {
		t.Errorf("beyond that %q", got)
	}
	if h := contents(r.host); h["edit"] != "old edit" || h["del"] == "" || h["a"] != "" || h["both"] != "the host's" ||
		contents(r.guest)["both"] != "the guest's" {
		t.Errorf("changed by itself: %q", h)
	}
	write(t, r.host, "mine", "1")
	r.flush(t)
	if contents(r.guest)["mine"] != "1" {
		t.Error("what the host's user does never reaches the guest")
	}
}

func TestReviewTakesWhatIsPicked(t *testing.T) {
	r := newReview(t)
	d := r.diff(t)
	var picks []Pick
	for _, p := range []string{"edit", "a/b/new", "del", "run.sh", ".git/hooks/pre-push", "link", "both"} {
		picks = append(picks, Pick{ID: d[p].ID})
	}
	for _, a := range r.take(t, picks...) {
		if a.Reason != a.Change.Refused {
			t.Errorf("%s: %q", a.Change.Path, a.Reason)
		}
	}
	h := contents(r.host)
	if h["edit"] != "new" || h["a/b/new"] != "new" || h["del"] != "" || h["run.sh"] != "" || h[".git/hooks/pre-push"] != "old .git/hooks/pre-push" ||
		h["both"] != "the host's" || h["link"] != "" {
		t.Errorf("host %q", h)
	}
	d = r.diff(t)
	picks = nil
	for _, p := range []string{"run.sh", ".git/hooks/pre-push", "both", "link"} {
		picks = append(picks, Pick{ID: d[p].ID, Force: true})
	}
	r.take(t, picks...)
	h = contents(r.host)
	if h["run.sh"] != "#!/bin/sh" || h[".git/hooks/pre-push"] != "evil" || h["both"] != "the guest's" || h["link"] != "" {
		t.Errorf("forced: %q", h)
	}
	if d := r.diff(t); len(d) != 1 {
		t.Errorf("left: %v", d)
	}
}

func TestReviewTakesOnlyWhatWasShown(t *testing.T) {
	for name, meanwhile := range map[string]func(*rig){
		"the guest changes it": func(r *rig) { write(t, r.guest, "edit", "something worse") },
		"the host changes it":  func(r *rig) { write(t, r.host, "edit", "by hand") },
		"its mode changes":     func(r *rig) { os.Chmod(filepath.Join(r.guest, "edit"), 0o755) },
	} {
		r := newReview(t)
		id := r.diff(t)["edit"].ID
		meanwhile(r)
		before := contents(r.host)["edit"]
		if got := r.take(t, Pick{ID: id, Force: true}); got[0].Reason != ErrStale.Error() || contents(r.host)["edit"] != before {
			t.Errorf("%s: %q, host has %q", name, got[0].Reason, contents(r.host)["edit"])
		}
	}
}

func TestReviewReads(t *testing.T) {
	r := newReview(t)
	r.diff(t)
	host, guest, err := r.Read(context.Background(), "edit", 100)
	if err != nil || string(host) != "old edit" || string(guest) != "new" {
		t.Errorf("%q %q %v", host, guest, err)
	}
	if _, _, err := r.Read(context.Background(), "edit", 3); err == nil {
		t.Error("more than the bound")
	}
}

func TestIdentityIsOfAllThatMatters(t *testing.T) {
	a := tree.Entry{Kind: tree.File, Size: 1}
	b := a
	b.Exec = true
	l := tree.Entry{Kind: tree.Link, Target: "x"}
	seen := map[string]bool{}
	for _, id := range []string{
		identify("p", a, b), identify("p", b, a), identify("q", a, b), identify("p", a, l),
		identify("p", a, tree.Entry{Kind: tree.Link, Target: "y"}),
	} {
		if seen[id] {
			t.Error("two changes have one name")
		}
		seen[id] = true
	}
}
