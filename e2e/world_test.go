package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/machine"
)

// world is a user: folders of its own for state, and a project. The image cache is
// the machine's: an image takes minutes to build.
type world struct {
	t       *testing.T
	sbx     string
	env     []string
	project string
	base    string // everything below it but the project is sbx' own
}

func newWorld(t *testing.T, project string) *world {
	t.Helper()
	if !*vm {
		t.Skip("boots a real guest: go test ./e2e -vm -sbx PATH")
	}
	// Short, for sockets; not t.TempDir, whose name holds the test's.
	base, err := os.MkdirTemp("", "sbx-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, sbx: *sbxPath, base: base, project: filepath.Join(base, "home", project)}
	if err := os.MkdirAll(w.project, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"DATA_HOME", "STATE_HOME", "CONFIG_HOME", "RUNTIME_DIR"} {
		dir := filepath.Join(base, strings.ToLower(name))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		w.env = append(w.env, "XDG_"+name+"="+dir)
	}
	t.Cleanup(func() {
		w.run("rm", "--all", "-f")
		os.RemoveAll(base)
	})
	return w
}

// result is how a command of sbx ended.
type result struct {
	out, err string
	status   int
	took     time.Duration
}

// command is sbx with args in the project; nothing is on its stdin.
func (w *world) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, w.sbx, args...)
	cmd.Dir = w.project
	cmd.Env = append(os.Environ(), w.env...)
	return cmd
}

func (w *world) run(args ...string) result { return finish(w.command(args...)) }

func (w *world) runIn(stdin string, args ...string) result {
	cmd := w.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(cmd)
}

func finish(cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.status = exit.ExitCode()
	case err != nil:
		r.status, r.err = -1, r.err+err.Error()
	}
	return r
}

// ok runs sbx and returns what it printed; it must succeed.
func (w *world) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := w.run(args...)
	if r.status != 0 {
		t.Fatalf("sbx %q: status %d after %v\n%s%s", args, r.status, r.took, r.out, r.err)
	}
	return r.out
}

// sh runs a shell command in the guest; it must succeed.
func (w *world) sh(t *testing.T, script string) string {
	t.Helper()
	return w.ok(t, "exec", "--", "sh", "-c", script)
}

// list is `sbx ls --json`.
func (w *world) list(t *testing.T) []machine.Status {
	t.Helper()
	var list []machine.Status
	if err := json.Unmarshal([]byte(w.ok(t, "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// status is the one sandbox of the project in `sbx ls --json`.
func (w *world) status(t *testing.T) machine.Status {
	t.Helper()
	for _, status := range w.list(t) {
		if status.Project == w.project {
			return status
		}
	}
	t.Fatalf("no sandbox of %q is listed", w.project)
	return machine.Status{}
}

// write puts a file into the project.
func (w *world) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.project, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.project, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// alive says whether a process is there and no zombie.
func alive(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// within waits until ok, at most d.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}
