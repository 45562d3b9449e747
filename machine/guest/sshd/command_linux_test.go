package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestCommandRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Command{
			Argv: rapid.SliceOfN(rapid.String(), 1, 8).Draw(t, "argv"), Dir: rapid.String().Draw(t, "dir"),
			User: rapid.String().Draw(t, "user"), Env: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "env"),
		}
		payload, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Command{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for name, payload := range map[string]string{
		"no words": "\x00{}", "no JSON": "\x00", "other types": "\x00{\"argv\":\"a\"}", "two documents": "\x00{\"argv\":[\"a\"]}{}",
		"too long": strings.Repeat("x", maxExec+1),
	} {
		if c, err := decode(payload); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("\x00{\"argv\":[\"a\"]}")
	f.Add("ls -l")
	f.Fuzz(func(t *testing.T, payload string) {
		if c, err := decode(payload); err == nil && len(c.Argv) == 0 {
			t.Error("a command without words")
		}
	})
}

func TestProcesses(t *testing.T) {
	for _, c := range []struct {
		threads, pids string
		want          int
	}{{"7800\n", "32768\n", 7800}, {"250000", "32768", 32768}, {"", "4194304", 32768}, {"nonsense", "-1", 32768}} {
		dir := t.TempDir()
		for name, text := range map[string]string{"threads-max": c.threads, "pid_max": c.pids} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := processes(dir); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.threads, c.pids, got, c.want)
		}
	}
}

// What a command left is looked after until its folder can go; only one that ran
// into its limit is ended. The folders are plain ones here: killing is a file.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	c := &Cgroups{dir: dir, limit: 64, left: map[string]bool{}}
	folder := func(name, events string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if events != "" {
			if err := os.WriteFile(filepath.Join(path, "pids.events"), []byte(events), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	folder("running", "max 7\n") // its command has not ended: none of tidy's business
	empty, daemon, bomb := folder("empty", ""), folder("daemon", "max 0\n"), folder("bomb", "max 12\n")
	for _, path := range []string{empty, daemon, bomb} {
		c.release(&cgroup{path: path})
	}
	if _, err := os.Stat(empty); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder: %v", err)
	}
	for path, want := range map[string]bool{daemon: false, bomb: true, filepath.Join(dir, "running"): false} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.kill")); (err == nil) != want {
			t.Errorf("%s: killed %v, want %v", path, err == nil, want)
		}
	}
	if diff := cmp.Diff(map[string]bool{daemon: true, bomb: true}, c.left); diff != "" {
		t.Error(diff)
	}
}
