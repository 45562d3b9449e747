package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testUndo: an agent deletes the whole tree, untracked and ignored files too, while the host's user edits one of
// them; afterwards everything is back and the edit is there.
func testUndo(t *testing.T, w *world) {
	label := strings.TrimSpace(w.ok(t, "checkpoint", "make", "-m", "before the agent"))
	for path, content := range map[string]string{
		"tree/.gitignore": "ignored\n", "tree/ignored": "i\n", "tree/deep/untracked": "u\n", "tree/mine": "before\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(w.project, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		w.write(t, path, content)
	}
	w.sh(t, "rm -rf tree && test ! -e tree && echo x > left-by-guest && mkdir moved && mv made-in-guest moved/")
	if err := os.Mkdir(filepath.Join(w.project, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "tree/mine", "after\n")
	if diff := w.ok(t, "diff", label); !strings.Contains(diff, "D tree/deep/untracked") || !strings.Contains(diff, "A left-by-guest") {
		t.Errorf("diff: %q", diff)
	}
	if out := w.ok(t, "undo", label); !strings.Contains(out, "conflict") {
		t.Errorf("undo: %q", out)
	}
	for path, want := range map[string]string{"tree/ignored": "i\n", "tree/deep/untracked": "u\n", "tree/mine": "after\n", "made-in-guest": "x\n"} {
		if got := w.read(t, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"left-by-guest", "moved"} {
		if _, err := os.Lstat(filepath.Join(w.project, path)); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	// The guest may believe what it knew for a second.
	w.sh(t, "sleep 1.2; test -e tree/deep/untracked && ! test -e left-by-guest")
}

// testMask: the guest never sees what a file of secrets holds, and cannot get at it.
func testMask(t *testing.T, w *world) {
	w.write(t, ".env", "API_KEY=hunter2\n")
	if got := w.sh(t, "cat .env"); got != "API_KEY=masked-by-sbx\n" {
		t.Errorf("the guest reads %q", got)
	}
	r := w.run("exec", "-u", "root", "--", "sh", "-c", "mv .env x; ln .env y; cp .env z; dd if=.env bs=1 2>/dev/null; cat x y z; echo evil > .env; rm -f .env")
	if strings.Contains(r.out+r.err, "hunter2") {
		t.Errorf("the guest got at it: %q", r.out)
	}
	if got := w.read(t, ".env"); got != "API_KEY=hunter2\n" {
		t.Errorf("on the host: %q", got)
	}
}

// testWatch: a program in the guest that watches files hears of the host's edits, and reads what was written.
func testWatch(t *testing.T, w *world) {
	const script = `const fs = require("fs")
fs.watch(".", (_, f) => {
	if (f != "watched") return
	const got = fs.readFileSync(f, "utf8")
	console.log(got)
	if (got == "second, longer") process.exit(0)
})
fs.writeFileSync("watching", "")
setTimeout(() => process.exit(1), 60000)`
	w.write(t, "watched", "first")
	w.write(t, "watch.js", script)
	done := make(chan result, 1)
	go func() { done <- w.run("exec", "--", "node", "watch.js") }()
	within(t, time.Minute, "the program watches", func() bool {
		_, err := os.Stat(filepath.Join(w.project, "watching"))
		return err == nil
	})
	start := time.Now()
	w.write(t, "watched", "second, longer")
	if r := <-done; r.status != 0 {
		t.Errorf("not heard: %d %q %q", r.status, r.out, r.err)
	}
	t.Logf("heard and read within %v", time.Since(start))
}
