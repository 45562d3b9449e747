package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// buildPosix puts the program of e2e/posix into the project, for the guest.
func buildPosix(t *testing.T, w *world) {
	t.Helper()
	build := exec.Command("go", "build", "-o", filepath.Join(w.project, "posix"), "./posix")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v %s", err, out)
	}
}

// testPosix: calls on the workspace do what they do on a local disk, for the ordinary user and for root, and fail
// with the same errors; what is different is what docs/security.md says.
func testPosix(t *testing.T, w *world) {
	buildPosix(t, w)
	many := filepath.Join(w.project, "posix-agent/many")
	if err := os.MkdirAll(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 { // the program finds them and takes some away: making them takes a guest half a minute
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("entry-%05d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for user, skip := range map[string]string{"agent": "", "root": "many"} {
		r := w.run("exec", "-u", user, "--", "./posix", "-share", "-skip", skip, "posix-"+user)
		if r.status != 0 || !strings.Contains(r.out, "ok storm") {
			t.Errorf("%s: status %d after %v\n%s%s", user, r.status, r.took, tail(r.out), tail(r.err))
		}
		t.Logf("%s: %v", user, r.took)
	}
}
