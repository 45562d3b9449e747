package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/sbx-vm/sbx/machine"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestVM is the main job, on one sandbox of a folder with a git repository and no
// sbx.yaml. The order matters: later parts break the guest and build it anew.
func TestVM(t *testing.T) {
	w := newWorld(t, "shop")
	if out, err := exec.Command("git", "-C", w.project, "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git init: %v %s", err, out)
	}
	first := w.run("up")
	if first.status != 0 {
		t.Fatalf("sbx up: %d\n%s%s", first.status, first.out, first.err)
	}
	t.Logf("sbx up took %v", first.took)
	if got := w.status(t); got.State != machine.Running {
		t.Fatalf("after up: %+v", got)
	} else if got.Accel == machine.TCG && !strings.Contains(first.err, "not a security boundary") {
		t.Errorf("TCG was not announced: %q", first.err)
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"again", testUpAgain},
		{"kernel", testKernel},
		{"workspace", testWorkspace},
		{"status", testExitStatus},
		{"stdin", testStdin},
		{"shell", testShell},
		{"stdout", testStdout},
		{"hundred", testHundred},
		{"terminal", testTerminal},
		{"signals", testSignals},
		{"cp", testCp},
		{"denied", testDenied},
		{"noway", testNoWayOut},
		{"docker", testDocker},
		{"mask", testMask},
		{"undo", testUndo},
		{"watch", testWatch},
		{"posix", testPosix},
		{"git", testGitLife},
		{"sqlite", testSQLite},
		{"mapped", testMapped},
		{"hostedits", testHostEdits},
		{"watchfolder", testWatchFolder},
		{"dockerkept", testDockerKept},
		{"forkbomb", testForkBomb},
		{"presets", testPresets},
		{"npminstall", testNpmInstall},
		{"gobuild", testGoBuild},
		{"killed", testKilled},
		{"serverkilled", testServerKilled},
		{"twenty", testTwentyUps},
		{"brokenstate", testBrokenState},
		{"destroyed", testDestroyed},
		{"removed", testRemoved},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, w) })
	}
}

func testUpAgain(t *testing.T, w *world) {
	before := w.status(t)
	r := w.run("up")
	if r.status != 0 || r.took > 5*time.Second {
		t.Errorf("up again: %d after %v: %s", r.status, r.took, r.err)
	}
	if strings.Contains(r.err, "not a security boundary") {
		t.Error("TCG was announced twice")
	}
	if after := w.status(t); after.QEMU != before.QEMU {
		t.Errorf("up again started another machine: %d, then %d", before.QEMU, after.QEMU)
	}
}

func testKernel(t *testing.T, w *world) {
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if guest := w.ok(t, "exec", "--", "uname", "-r"); strings.TrimSpace(guest) == strings.TrimSpace(string(host)) {
		t.Errorf("the guest's kernel is the host's: %s", guest)
	}
}

// testWorkspace: the same files on both sides, at once, the host user's own.
func testWorkspace(t *testing.T, w *world) {
	w.sh(t, "echo x > made-in-guest && mkdir -p sub/dir")
	info, err := os.Stat(filepath.Join(w.project, "made-in-guest"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Getuid() {
		t.Errorf("what the guest made belongs to %d", uid)
	}
	if got := w.read(t, "made-in-guest"); got != "x\n" {
		t.Errorf("read %q on the host", got)
	}
	for _, content := range []string{"one\n", "another, longer\n"} {
		w.write(t, "from-host", content)
		if got := w.sh(t, "cat from-host"); got != content {
			t.Errorf("the guest reads %q, the host wrote %q", got, content)
		}
	}
	if got := w.sh(t, "pwd"); strings.TrimSpace(got) != w.project {
		t.Errorf("commands start in %q, not in %q", got, w.project)
	}
	cmd := w.command("exec", "--", "pwd")
	cmd.Dir = filepath.Join(w.project, "sub/dir")
	if r := finish(cmd); strings.TrimSpace(r.out) != cmd.Dir {
		t.Errorf("in a sub-folder commands start in %q%s", r.out, r.err)
	}
	// Nothing else of the host is there.
	if got := w.sh(t, "ls "+filepath.Dir(w.project)); strings.TrimSpace(got) != filepath.Base(w.project) {
		t.Errorf("beside the project the guest sees %q", got)
	}
}

func testExitStatus(t *testing.T, w *world) {
	for script, want := range map[string]int{
		"exit 7": 7, "exit 0": 0, "exit 255": 255, "kill -TERM $$": 143, "kill -KILL $$": 137,
	} {
		if r := w.run("exec", "--", "sh", "-c", script); r.status != want {
			t.Errorf("%q: status %d, want %d (%s)", script, r.status, want, r.err)
		}
	}
	for argv, want := range map[string]int{"no-such-command": 127, "/etc/passwd": 126} {
		if r := w.run("exec", "--", argv); r.status != want {
			t.Errorf("%q: status %d, want %d (%s)", argv, r.status, want, r.err)
		}
	}
	if r := w.run("exec", "touch", "never"); r.status != 2 || !strings.Contains(r.err, "sbx exec -- touch never") {
		t.Errorf("without --: status %d, %q", r.status, r.err)
	}
	if r := w.run("exec", "--", "printf", "%s|", "a b", "", "$HOME", "'"); r.out != "a b||$HOME|'|" {
		t.Errorf("arguments arrive as %q", r.out)
	}
}

func testStdin(t *testing.T, w *world) {
	for _, in := range []string{"\x00\x01\xff", "", strings.Repeat("\x00\r\n\x1a\x04", 100_000)} {
		if r := w.runIn(in, "exec", "--", "cat"); r.out != in || r.status != 0 {
			t.Errorf("%d bytes went in, %d came out: status %d, %s", len(in), len(r.out), r.status, r.err)
		}
	}
	for _, redirect := range []string{"<&-", "</dev/null"} {
		cmd := w.command()
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "exec " + w.sbx + " exec -- cat " + redirect}
		if r := finish(cmd); r.status != 0 || r.out != "" || r.took > 20*time.Second {
			t.Errorf("cat %s: status %d after %v: %s%s", redirect, r.status, r.took, r.out, r.err)
		}
	}
}

// testShell: a login shell in the workspace, whose status is passed on.
func testShell(t *testing.T, w *world) {
	r := w.runIn("pwd\nshopt -q login_shell && echo login\nid -un\nexit 3\n", "shell")
	if want := w.project + "\nlogin\nagent\n"; r.out != want || r.status != 3 {
		t.Errorf("%q, status %d, want %q and 3: %s", r.out, r.status, want, r.err)
	}
}

// testStdout: a lot of it, and a reader that goes away.
func testStdout(t *testing.T, w *world) {
	const size = 64 << 20
	r := w.run("exec", "--", "head", "-c", itoa(size), "/dev/zero")
	if r.status != 0 || len(r.out) != size || bytes.ContainsFunc([]byte(r.out), func(c rune) bool { return c != 0 }) {
		t.Errorf("%d of %d bytes, status %d: %s", len(r.out), size, r.status, r.err)
	}
	t.Logf("%d MiB in %v", size>>20, r.took)
	cmd := w.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", w.sbx + " exec -- yes marker-of-yes | head -n 1"}
	if r := finish(cmd); r.out != "marker-of-yes\n" {
		t.Errorf("head got %q: %s", r.out, r.err)
	}
	within(t, 15*time.Second, "the command whose reader went away ends", func() bool {
		return w.run("exec", "--", "pgrep", "-f", "^yes marker-of-yes").status == 1
	})
}

func testHundred(t *testing.T, w *world) {
	var all sync.WaitGroup
	results := make([]result, 100)
	commands := make([]*exec.Cmd, len(results))
	for i := range commands {
		commands[i] = w.command("exec", "--", "sh", "-c", "echo "+itoa(i)+"; exit "+itoa(i))
	}
	for i, cmd := range commands {
		all.Go(func() { results[i] = finish(cmd) })
	}
	all.Wait()
	for i, r := range results {
		if r.status != i || r.out != itoa(i)+"\n" {
			t.Errorf("command %d: status %d, %q, %q", i, r.status, r.out, r.err)
		}
	}
}

// testTerminal: a terminal of the guest's own, its size, and the host's as before.
func testTerminal(t *testing.T, w *world) {
	cmd := w.command("exec", "--", "sh", "-c", "tty; stty size; read x; stty size; echo got $x")
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 111})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	screen := &buffer{}
	copied := make(chan struct{})
	go func() { defer close(copied); screen.ReadFrom(file) }()
	within(t, 20*time.Second, "the size", func() bool { return strings.Contains(screen.String(), "30 111") })
	if err := pty.Setsize(file, &pty.Winsize{Rows: 40, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // the signal is on its way to the guest
	if _, err := file.WriteString("typed\r"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, screen)
	}
	<-copied
	for _, want := range []string{"/dev/pts/", "40 99", "got typed"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("%q is not in %q", want, screen)
		}
	}
}

// buffer is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) ReadFrom(r interface{ Read([]byte) (int, error) }) {
	chunk := make([]byte, 4096)
	for {
		n, err := r.Read(chunk)
		b.mu.Lock()
		b.b.Write(chunk[:n])
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testSignals: what would end sbx ends the guest's command, which may say goodbye.
func testSignals(t *testing.T, w *world) {
	for sig, name := range map[syscall.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM"} {
		cmd := w.command("exec", "--", "sh", "-c", "trap 'echo bye; exit 9' "+name+"; echo ready; while :; do sleep 0.1; done")
		out := &buffer{}
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		copied := make(chan struct{})
		go func() { defer close(copied); out.ReadFrom(pipe) }()
		within(t, 20*time.Second, "ready", func() bool { return strings.Contains(out.String(), "ready") })
		cmd.Process.Signal(sig)
		<-copied
		cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status != 9 || !strings.Contains(out.String(), "bye") {
			t.Errorf("SIG%s: status %d, %q", name, status, out)
		}
	}
	// A client that dies takes its command along.
	cmd := w.command("exec", "--", "sleep", "98765")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "the command runs", func() bool {
		return w.run("exec", "--", "pgrep", "-f", "^sleep 98765").status == 0
	})
	cmd.Process.Kill()
	cmd.Wait()
	within(t, 20*time.Second, "the command is gone", func() bool {
		return w.run("exec", "--", "pgrep", "-f", "^sleep 98765").status == 1
	})
}

func testCp(t *testing.T, w *world) {
	local := filepath.Join(w.base, "copy")
	for name, content := range map[string]string{"a": "A", "sub/b": strings.Repeat("b", 3<<20)} {
		p := filepath.Join(local, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(t, "cp", local, ":/tmp/")
	if got := w.sh(t, "cat /tmp/copy/a; wc -c < /tmp/copy/sub/b"); got != "A3145728\n" {
		t.Errorf("in the guest: %q", got)
	}
	w.sh(t, "cd /tmp/copy && ln -s /etc/passwd link && head -c 2000000 /dev/urandom > rnd && sha256sum rnd > sum")
	back := filepath.Join(w.base, "back")
	w.ok(t, "cp", ":/tmp/copy", back)
	if out, err := exec.Command("sh", "-c", "cd "+back+" && sha256sum -c sum && cmp sub/b "+local+"/sub/b && test -L link").CombinedOutput(); err != nil {
		t.Errorf("back on the host: %v %s", err, out)
	}
	if r := w.run("cp", ":/etc/shadow", back+"/"); r.status != 1 {
		t.Errorf("a file that the guest's user may not read: status %d", r.status)
	}
}
