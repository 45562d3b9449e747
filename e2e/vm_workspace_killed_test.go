package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// acknowledging tells of each line that it wrote once that is on the disk, and keeps the file server busy besides.
const acknowledging = `
import os, threading
def busy():
    while True:
        with open("busy", "wb") as f: f.write(os.urandom(1 << 20))
        os.rename("busy", "was busy")
threading.Thread(target=busy, daemon=True).start()
f = os.open("acknowledged", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
i = 0
while True:
    os.write(f, b"%08d\n" % i)
    os.fsync(f)
    print(i, flush=True)
    i += 1
`

// testServerKilled: whoever kills the file server in the middle of its work, what the guest was told is on the disk
// is there, the command ends with a word, and up begins anew.
func testServerKilled(t *testing.T, w *world) {
	w.ok(t, "up")
	label := strings.TrimSpace(w.ok(t, "checkpoint", "make", "-m", "before the kill"))
	w.write(t, "acknowledging.py", acknowledging)
	cmd := w.command("exec", "--", "python3", "acknowledging.py")
	said, errs := &buffer{}, &strings.Builder{}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); said.ReadFrom(out) }()
	within(t, time.Minute, "lines are written", func() bool { return strings.Count(said.String(), "\n") > 100 })
	before := w.status(t)
	if err := syscall.Kill(before.FileServer, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		t.Error("the command hangs")
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 125 || !strings.Contains(errs.String(), "sbx: ") {
		t.Errorf("the command ended with %d and %q", cmd.ProcessState.ExitCode(), errs)
	}
	if after := w.status(t); !strings.Contains(after.Reason, "file server") {
		t.Errorf("afterwards: %s, %q", after.State, after.Reason)
	}
	lines := strings.Count(said.String(), "\n")
	got := w.read(t, "acknowledged")
	for i := range lines {
		if want := fmt.Sprintf("%08d\n", i); len(got) < 9*(i+1) || got[9*i:9*(i+1)] != want {
			t.Fatalf("%d lines were acknowledged, line %d of %d bytes is lost", lines, i, len(got))
		}
	}
	w.ok(t, "up")
	w.sh(t, "echo more >> acknowledged && rm -f 'was busy' busy")
	if now := w.read(t, "acknowledged"); now != got+"more\n" {
		t.Errorf("%d bytes after another line, %d before", len(now), len(got))
	}
	if diff := w.ok(t, "diff", label); !strings.Contains(diff, "A acknowledged") {
		t.Errorf("the journal of before: %q", diff)
	}
}
