package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
)

// TestVMMirror is the workspace as a copy in the guest: modes sync and review.
func TestVMMirror(t *testing.T) {
	w := newWorld(t, "mirror")
	if err := os.MkdirAll(filepath.Join(w.project, ".git/hooks"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "sbx.yaml", "version: 1\nworkspace: {mode: sync, ignore: [node_modules/]}\n")
	w.write(t, ".env", "API_KEY=hunter2\n")
	w.write(t, "from-host", "one\n")
	w.write(t, "made-in-guest", "x\n")
	w.ok(t, "up")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"both", testMirrorBoth}, {"burst", testMirrorBurst}, {"halt", testMirrorHalt}, {"undo", testUndo},
		{"killed", testMirrorKilled}, {"review", testMirrorReview},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, w) })
	}
}

func (w *world) mirror(t *testing.T) machine.Mirror {
	t.Helper()
	m := w.status(t).Mirror
	if m == nil {
		t.Fatal("the status says nothing of the copy")
	}
	return *m
}

// testMirrorBoth: what is written on one side is on the other when a command begins or ends, and soon without one;
// secrets, hooks and what is ignored stay where they are.
func testMirrorBoth(t *testing.T, w *world) {
	if got := w.sh(t, "cat from-host; test ! -e .env; echo two > from-guest; mkdir node_modules; touch node_modules/x; chmod +x from-guest"); got != "one\n" {
		t.Errorf("the guest reads %q", got)
	}
	if got := w.read(t, "from-guest"); got != "two\n" {
		t.Errorf("the host reads %q", got)
	}
	w.write(t, "from-host", "three\n")
	if got := w.sh(t, "cat from-host"); got != "three\n" {
		t.Errorf("the guest reads %q", got)
	}
	r := w.run("exec", "-u", "root", "--", "sh", "-c", "echo evil > .git/hooks/pre-commit; ln -s /etc/passwd out; ln -s from-host in")
	if !strings.Contains(r.err, ".git/hooks/pre-commit (protected)") || !strings.Contains(r.err, "out (the link leads out") {
		t.Errorf("held changes are not told: %q", r.err)
	}
	if log := w.ok(t, "logs", "--kind", "files"); !strings.Contains(log, "path=.git/hooks/pre-commit reason=protected") {
		t.Errorf("the log does not say: %q", log)
	}
	for _, path := range []string{".git/hooks/pre-commit", "out", "node_modules", ".sbx-sync"} {
		if _, err := os.Lstat(filepath.Join(w.project, path)); err == nil {
			t.Errorf("%s came to the host", path)
		}
	}
	if target, err := os.Readlink(filepath.Join(w.project, "in")); target != "from-host" {
		t.Errorf("link in: %q, %v", target, err)
	}
	done := make(chan result, 1)
	go func() {
		done <- w.run("exec", "--", "timeout", "60", "sh", "-c", "echo > waits; until grep -q now from-host; do sleep 0.02; done; echo > heard; sleep 1")
	}()
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(w.project, name)); return err == nil }
	}
	within(t, time.Minute, "the guest's file arrives while its command runs", there("waits"))
	start := time.Now()
	w.write(t, "from-host", "now\n")
	within(t, time.Minute, "the guest answers", there("heard"))
	t.Logf("to the guest and back in %v", time.Since(start))
	if r := <-done; r.status != 0 {
		t.Errorf("status %d: %s", r.status, r.err)
	}
}

// testMirrorBurst: many files at once, and one that both sides write as fast as they can: what was written last stays.
func testMirrorBurst(t *testing.T, w *world) {
	start := time.Now()
	w.sh(t, "mkdir burst && cd burst && for i in $(seq 2000); do echo $i > f$i; done")
	list, err := os.ReadDir(filepath.Join(w.project, "burst"))
	if err != nil || len(list) != 2000 {
		t.Fatalf("%d files came, %v", len(list), err)
	}
	t.Logf("2000 files made and here in %v", time.Since(start))
	w.run("exec", "--", "sh", "-c", "echo both > conflict")
	done := make(chan result, 1)
	go func() {
		done <- w.run("exec", "--", "sh", "-c", "for i in $(seq 200); do echo guest $i > conflict; done")
	}()
	for i := range 50 {
		w.write(t, "conflict", fmt.Sprintf("host %d\n", i))
	}
	<-done
	w.run("sync", "flush")
	names, _ := filepath.Glob(filepath.Join(w.project, "conflict*"))
	var all string
	for _, name := range names {
		content, _ := os.ReadFile(name)
		all += string(content)
	}
	if !strings.Contains(all, "host 49") && !strings.Contains(all, "guest 200") {
		t.Errorf("the last of neither side is there: %q in %q", all, names)
	}
}

// testMirrorHalt: the guest loses everything, .git too. Nothing is done on the host, and reset brings it back.
func testMirrorHalt(t *testing.T, w *world) {
	r := w.run("exec", "--", "sh", "-c", "rm -rf .git burst from-host")
	if !strings.Contains(r.err, "is gone from the guest's copy") {
		t.Errorf("not told: %q", r.err)
	}
	if m := w.mirror(t); m.State != "halted" || len(m.Halts) == 0 {
		t.Errorf("status: %+v", m)
	}
	if w.read(t, "from-host") != "now\n" || w.read(t, "burst/f2000") != "2000\n" {
		t.Error("the host lost a file")
	}
	w.ok(t, "sync", "reset")
	if got := w.sh(t, "cat from-host; ls burst | wc -l"); got != "now\n2000\n" {
		t.Errorf("the guest has %q", got)
	}
}

// testMirrorKilled: the supervisor and the machine die in the middle of a copy. Both sides' files are there after
// the next start.
func testMirrorKilled(t *testing.T, w *world) {
	go w.run("exec", "--", "sh", "-c", "mkdir -p killed; for i in $(seq 3000); do echo guest $i > killed/g$i; done; sync; sleep 60")
	killed := filepath.Join(w.project, "killed")
	within(t, time.Minute, "the copy has begun", func() bool { list, _ := os.ReadDir(killed); return len(list) > 0 })
	for i := range 500 {
		w.write(t, fmt.Sprintf("killed/h%d", i), "host\n")
	}
	syscall.Kill(w.status(t).Supervisor, syscall.SIGKILL)
	for i := range 500 {
		w.write(t, fmt.Sprintf("killed/late%d", i), "host\n")
	}
	w.ok(t, "up")
	if out := w.ok(t, "sync", "flush"); !strings.Contains(out, "in step") {
		t.Errorf("flush: %q", out)
	}
	for i := range 500 {
		if w.read(t, fmt.Sprintf("killed/h%d", i)) != "host\n" || w.read(t, fmt.Sprintf("killed/late%d", i)) != "host\n" {
			t.Fatal("the host's file was lost")
		}
	}
	here, _ := os.ReadDir(killed)
	there := strings.Count(w.sh(t, "ls killed"), "\n")
	if there != len(here) {
		t.Errorf("%d files here, %d in the guest", len(here), there)
	}
	w.sh(t, "rm -rf killed")
	w.run("sync", "flush", "--confirm")
}

// testMirrorReview: the guest's changes wait, are taken one by one, and what a tool would run only by force.
func testMirrorReview(t *testing.T, w *world) {
	w.write(t, "sbx.yaml", "version: 1\nworkspace: {mode: review, ignore: [node_modules/]}\n")
	w.write(t, "both", "one\n")
	w.ok(t, "restart")
	r := w.run("exec", "--", "sh", "-c", `echo made > made; echo x >> from-host; rm in; printf '#!/bin/sh\n' > run.sh; chmod +x run.sh
mkdir -p .vscode; echo {} > .vscode/tasks.json; echo guest > both`)
	if !strings.Contains(r.err, "changes of the guest (sbx diff, then sbx apply)") {
		t.Errorf("not told: %q", r.err)
	}
	w.write(t, "both", "two\n")
	diff := w.ok(t, "diff")
	for _, want := range []string{"A made\n", "M from-host\n", "D in\n", "A run.sh (refused: executable)", "A .vscode/tasks.json (refused: protected)",
		"M both (refused: changed on the host too)"} {
		if !strings.Contains(diff, want) {
			t.Errorf("no %q in %q", want, diff)
		}
	}
	if patch := w.ok(t, "diff", "--patch"); !strings.Contains(patch, " now\n+x\n") {
		t.Errorf("patch: %q", patch)
	}
	w.ok(t, "apply", "made", "from-host")
	if w.read(t, "made") != "made\n" || w.read(t, "from-host") != "now\nx\n" {
		t.Error("not applied")
	}
	var done []control.Applied
	if err := json.Unmarshal([]byte(w.ok(t, "apply", "--json")), &done); err != nil || len(done) != 1 || done[0].Change.Path != "in" {
		t.Errorf("%v: %+v", err, done)
	}
	for _, path := range []string{"run.sh", ".vscode"} {
		if _, err := os.Lstat(filepath.Join(w.project, path)); err == nil {
			t.Errorf("%s came without force", path)
		}
	}
	w.ok(t, "apply", "--force", "run.sh", "both")
	if w.read(t, "run.sh") != "#!/bin/sh\n" || w.read(t, "both") != "guest\n" {
		t.Error("not forced")
	}
	w.ok(t, "undo")
	if _, err := os.Lstat(filepath.Join(w.project, "run.sh")); err == nil || w.read(t, "both") != "two\n" {
		t.Error("the last apply was not taken back")
	}
}
