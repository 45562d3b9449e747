//go:build unix

package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/sync/tree"
)

func open(t *testing.T, o Options) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestScanKinds(t *testing.T) {
	r, dir := open(t, Options{})
	put(t, dir, "d/f", "1")
	put(t, dir, "\xff\x1b[31m\n\u202e", "W05, W06")
	put(t, dir, `a\b:c`, "W07")
	os.Symlink("new\nline", filepath.Join(dir, "l")) // W30
	unix.Mkfifo(filepath.Join(dir, "W35"), 0o644)
	put(t, dir, StageDir+"/x", "own")
	l, err := net.Listen("unix", filepath.Join(dir, "W36"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got, err := r.Scan(ctx, []string{""}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]tree.Kind{}
	for p, e := range got {
		kinds[p] = e.Kind
	}
	want := map[string]tree.Kind{
		"d": tree.Folder, "d/f": tree.File, "\xff\x1b[31m\n\u202e": tree.File, `a\b:c`: tree.File, "l": tree.Link, "W35": tree.Unknown, "W36": tree.Unknown,
	}
	if d := cmp.Diff(kinds, want); d != "" || got["l"].Target != "new\nline" {
		t.Error(d)
	}
}

func TestW29_LinksAreNeverFollowed(t *testing.T) {
	r, dir := open(t, Options{})
	for _, to := range []string{"/proc/self/root", "/dev/fd/3", "/etc", "..", "."} {
		os.Remove(filepath.Join(dir, "l"))
		os.Symlink(to, filepath.Join(dir, "l"))
		if f, err := r.OpenFile("l"); err == nil {
			t.Errorf("%s: opened %v", to, f.Name())
		}
		if f, err := r.OpenFile("l/hosts"); err == nil {
			t.Errorf("%s: opened below %v", to, f.Name())
		}
		err := r.Apply(context.Background(), Step{Action: tree.Action{Op: tree.Make, Path: "l/x"}})
		if err == nil {
			t.Errorf("%s: made a folder through it", to)
		}
	}
	for _, p := range []string{"../x", "/x", "a/../../x", "", ".", "a\x00"} {
		if _, err := r.OpenFile(p); err == nil {
			t.Errorf("%q opened", p)
		}
	}
}

func TestW44_ChangesWhileRead(t *testing.T) {
	r, dir := open(t, Options{})
	put(t, dir, "f", strings.Repeat("x", 1<<20))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := byte(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte{i}, 1<<20), 0o644)
			}
		}
	}()
	for range 50 {
		got, err := r.Scan(context.Background(), []string{"f"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if e := got["f"]; e.Kind == tree.File && e.Stamp.Inode != 0 {
			t.Errorf("a file that changes is trusted: %v", e)
		}
	}
	close(stop)
	<-done
}

func TestStampSparesReading(t *testing.T) {
	r, dir := open(t, Options{})
	put(t, dir, "f", "1")
	first, _ := r.Scan(context.Background(), []string{""}, nil)
	var st unix.Stat_t
	unix.Lstat(filepath.Join(dir, "f"), &st)
	known := tree.Tree{"f": {Kind: tree.File, Size: 1, Hash: tree.Hash{1}, Stamp: stamp(&st)}}
	if got, _ := r.Scan(context.Background(), []string{""}, known); got["f"].Hash != (tree.Hash{1}) {
		t.Error("read again")
	}
	if first["f"].Stamp != (tree.Stamp{}) {
		t.Error("the stamp of a file that changed just now is trusted")
	}
	put(t, dir, "f", "2")
	if got, _ := r.Scan(context.Background(), []string{""}, known); got["f"].Hash == (tree.Hash{1}) {
		t.Error("not read again")
	}
}

func TestLimits(t *testing.T) {
	r, dir := open(t, Options{MaxFile: 3, MaxTree: 3})
	put(t, dir, "f", "1234")
	if got, _ := r.Scan(context.Background(), []string{""}, nil); got["f"].Kind != tree.Unknown {
		t.Errorf("%v", got["f"])
	}
	for i := range 4 {
		put(t, dir, fmt.Sprint(i), "1")
	}
	if _, err := r.Scan(context.Background(), []string{""}, nil); err == nil {
		t.Error("more than the bound")
	}
}

func TestRecoverKeepsWhatNobodyKnows(t *testing.T) {
	r, dir := open(t, Options{})
	put(t, dir, StageDir+"/"+complete+"1", "the user's edit")
	put(t, dir, StageDir+"/"+complete+"2", "known")
	put(t, dir, StageDir+"/"+writing+"3", "half")
	saved, err := r.Recover(context.Background(), func(e tree.Entry) bool { return e.Size == 5 })
	if err != nil || len(saved) != 1 {
		t.Fatalf("%q, %v", saved, err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, saved[0])); string(data) != "the user's edit" {
		t.Errorf("%q", data)
	}
	left, _ := os.ReadDir(filepath.Join(dir, StageDir))
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestWatchTells(t *testing.T) {
	r, dir := open(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	w, err := r.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a/b/c", "1")
	seen := map[string]bool{}
	for !tree.At("a/b/c", seen) {
		for _, p := range <-w.Dirty {
			seen[p] = true
		}
	}
	put(t, dir, "a/b/c", "2")
	for seen = map[string]bool{}; !tree.At("a/b/c", seen); {
		for _, p := range <-w.Dirty {
			seen[p] = true
		}
	}
	cancel()
	for range w.Dirty {
	}
}

// TestIgnoreIsGits compares with git itself, walking as Scan does.
func TestIgnoreIsGits(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal("this test compares with git: install it")
	}
	paths := []string{
		"a", "b.log", "a/b.log", "node_modules/x", "x/node_modules/y", "docs/a/b", "keep.log", "a/keep.log",
		"x y", "#hash", "!bang", "build/out", "src/build/out",
	}
	rules := []string{
		"*.log", "!keep.log", "node_modules/", "/build", "docs/**/b", "**/a", "x*", `\#hash`, `\!bang`, "# comment", "", "a/",
		"!a/keep.log", "[ab]*", "x?y", "/docs/*", "build/", "**",
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "ignore")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		lines := rapid.SliceOfN(rapid.SampledFrom(rules), 0, 4).Draw(t, "rules")
		for _, p := range paths {
			os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755)
			if st, err := os.Stat(filepath.Join(dir, p)); err == nil && st.IsDir() {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, p), nil, 0o644); err != nil {
				os.MkdirAll(filepath.Join(dir, p), 0o755)
			}
		}
		ignore, err := NewIgnore(lines)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir, Options{Ignore: ignore})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		found, err := r.Scan(context.Background(), []string{""}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for p, e := range found {
			if e.Kind == tree.File {
				got = append(got, p)
			}
		}
		slices.Sort(got)
		rulesFile := filepath.Join(dir, "..", filepath.Base(dir)+".rules")
		os.WriteFile(rulesFile, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
		defer os.Remove(rulesFile)
		if want := gitFiles(t, git, dir, rulesFile); !slices.Equal(got, want) {
			t.Fatalf("rules %q: %q, git says %q", lines, got, want)
		}
	})
}

func gitFiles(t *rapid.T, git, dir, rules string) []string {
	env := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_DIR="+dir+".git", "GIT_WORK_TREE="+dir)
	defer os.RemoveAll(dir + ".git")
	for _, args := range [][]string{{"init", "-q"}, {"ls-files", "-z", "--others", "--exclude-from=" + rules}} {
		cmd := exec.Command(git, args...)
		cmd.Env, cmd.Dir = env, dir
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("git %v: %v", args, err)
		}
		if args[0] == "ls-files" {
			files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
			if len(out) == 0 {
				files = nil
			}
			slices.Sort(files)
			return files
		}
	}
	return nil
}

// TestOwner: what root makes in a user's folder is the user's. Others' files are theirs anyway.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	uid := os.Geteuid()
	if uid == 0 {
		uid = 12345
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, name, err := r.Stage()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, s := range []Step{
		{Action: tree.Action{Op: tree.Make, Path: "d"}},
		{Action: tree.Action{Op: tree.Put, Path: "d/f", Want: tree.Entry{Kind: tree.File}}, Staged: name},
		{Action: tree.Action{Op: tree.Put, Path: "l", Want: tree.Entry{Kind: tree.Link, Target: "/absent"}}},
	} {
		if err := r.Apply(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, s.Path), &st); err != nil || int(st.Uid) != uid {
			t.Errorf("%s: owner %d, %v", s.Path, st.Uid, err)
		}
	}
}
