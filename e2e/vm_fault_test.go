package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/machine"
)

func hostAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, addr := range addrs {
		if ip, ok := addr.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			out = append(out, ip.IP.String())
		}
	}
	return out
}

// testForkBomb: the guest's own limits leave room for sbx.
func testForkBomb(t *testing.T, w *world) {
	bomb := w.command("exec", "--", "bash", "-c", "b() { b | b & }; b; sleep 60")
	if err := bomb.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if r := w.run("exec", "-u", "root", "--", "true"); r.status != 0 || r.took > 60*time.Second {
		t.Errorf("exec beside a fork bomb: status %d after %v: %s", r.status, r.took, r.err)
	}
	bomb.Process.Kill()
	bomb.Wait()
	w.ok(t, "restart")
	w.ok(t, "exec", "--", "true")
}

// testKilled: whichever part is killed while a command runs, the listing is right
// within two seconds, up works again, and nothing is left of the old run.
func testKilled(t *testing.T, w *world) {
	for _, part := range []struct {
		name string
		pid  func(machine.Status) int
	}{
		{"supervisor", func(s machine.Status) int { return s.Supervisor }},
		{"QEMU", func(s machine.Status) int { return s.QEMU }},
		{"file server", func(s machine.Status) int { return s.FileServer }},
	} {
		w.ok(t, "up")
		before := w.status(t)
		pid := part.pid(before)
		if pid <= 1 || !alive(pid) {
			t.Fatalf("%s: pid %d in %+v", part.name, pid, before)
		}
		running := w.command("exec", "--", "sleep", "600")
		if err := running.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		within(t, deadline, "ls after the "+part.name+" was killed", func() bool {
			return w.status(t).State != machine.Running || w.status(t).FileServer != before.FileServer
		})
		after := w.status(t)
		t.Logf("%s killed: %s (%s)", part.name, after.State, after.Reason)
		w.ok(t, "up")
		if got := w.sh(t, "cat made-in-guest"); got != "x\n" {
			t.Errorf("%s: the workspace reads %q afterwards", part.name, got)
		}
		within(t, deadline, "the killed "+part.name+" is gone", func() bool { return !alive(pid) })
		running.Process.Kill()
		running.Wait()
		if now := w.status(t); now.QEMU != before.QEMU && alive(before.QEMU) {
			t.Errorf("%s: the old QEMU %d is still there", part.name, before.QEMU)
		}
	}
}

// testTwentyUps: one machine, and everybody is told that it runs.
func testTwentyUps(t *testing.T, w *world) {
	w.ok(t, "stop")
	var all sync.WaitGroup
	results := make([]result, 20)
	for i := range results {
		cmd := w.command("up")
		all.Go(func() { results[i] = finish(cmd) })
	}
	all.Wait()
	for i, r := range results {
		if r.status != 0 {
			t.Errorf("up %d: status %d: %s", i, r.status, r.err)
		}
	}
	if n := len(w.processes(t, "qemu-system")); n != 1 {
		t.Errorf("%d machines", n)
	}
	w.ok(t, "exec", "--", "true")
}

// processes lists the processes that this world's sbx started: its own environment
// is in theirs, or their command line names its folders.
func (w *world) processes(t *testing.T, name string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, dir := range dirs {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		pid := atoi(filepath.Base(dir))
		ours := strings.Contains(string(line)+string(environ), w.base) || w.descends(pid)
		if ours && strings.Contains(exe, name) && alive(pid) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// descends says whether pid's parent is one of this world's supervisors: children
// with another uid and a clean environment name nothing.
func (w *world) descends(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[1] == "1" {
		return false
	}
	environ, _ := os.ReadFile(filepath.Join("/proc", fields[1], "environ"))
	return strings.Contains(string(environ), w.base)
}

// testBrokenState: one sandbox's broken file costs that sandbox, not the listing.
func testBrokenState(t *testing.T, w *world) {
	good := w.status(t)
	broken := 0
	err := filepath.WalkDir(w.base, func(p string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || entry.Name() != good.Name || strings.Contains(p, "/home/") {
			return err
		}
		other := filepath.Join(filepath.Dir(p), "broken")
		files, err := filepath.Glob(filepath.Join(p, "*.json"))
		if err != nil || len(files) == 0 {
			return err
		}
		broken++
		if err := os.MkdirAll(other, 0o700); err != nil {
			return err
		}
		for _, file := range files {
			if err := os.WriteFile(filepath.Join(other, filepath.Base(file)), []byte("{\"version\": \x00"), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || broken == 0 {
		t.Fatalf("no state folder of %q was found below %q: %v", good.Name, w.base, err)
	}
	states := map[string]machine.State{}
	for _, status := range w.list(t) {
		states[status.Name] = status.State
	}
	if states[good.Name] != machine.Running || states["broken"] != machine.Broken {
		t.Errorf("listed: %v", states)
	}
	w.ok(t, "rm", "-f", "broken")
	if n := len(w.list(t)); n != 1 {
		t.Errorf("%d sandboxes after rm", n)
	}
}

// testDestroyed: the guest breaks itself and only itself.
func testDestroyed(t *testing.T, w *world) {
	before := w.read(t, "made-in-guest")
	w.run("exec", "--", "sudo", "rm", "-rf", "--no-preserve-root", "/usr", "/etc")
	if r := w.run("exec", "--", "ls"); r.status == 0 {
		t.Error("ls still works in a guest without /usr")
	}
	if _, err := os.Stat("/usr/bin/env"); err != nil {
		t.Fatalf("the host's /usr: %v", err)
	}
	start := time.Now()
	w.ok(t, "reset")
	w.ok(t, "up")
	t.Logf("reset and up took %v", time.Since(start))
	if got := w.sh(t, "cat made-in-guest"); got != before || w.read(t, "made-in-guest") != before {
		t.Errorf("the workspace changed: %q", got)
	}
	w.ok(t, "exec", "--", "sudo", "true")
	if r := w.run("exec", "--", "docker", "images", "-q"); r.status != 0 || strings.TrimSpace(r.out) != "" {
		t.Errorf("the disk is not new: %q %s", r.out, r.err)
	}
}

// testRemoved: nothing is left: no process, no socket, no state.
func testRemoved(t *testing.T, w *world) {
	status := w.status(t)
	w.ok(t, "rm", "-f")
	if n := len(w.list(t)); n != 0 {
		t.Errorf("%d sandboxes are listed", n)
	}
	for _, pid := range []int{status.Supervisor, status.QEMU, status.FileServer} {
		within(t, deadline, "process "+itoa(pid)+" is gone", func() bool { return !alive(pid) })
	}
	if left := append(w.processes(t, "qemu"), w.processes(t, "sbx")...); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	err := filepath.WalkDir(w.base, func(p string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type() == os.ModeSocket {
			t.Errorf("a socket is left: %s", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if got := w.read(t, "made-in-guest"); got != "x\n" {
		t.Errorf("rm touched the project: %q", got)
	}
	if r := w.run("rm", "-f"); r.status != 0 {
		t.Errorf("rm -f of nothing: %d %s", r.status, r.err)
	}
}

// TestVMPath: a project folder whose name is all that folder names may be.
func TestVMPath(t *testing.T) {
	const odd = `a b,readonly=off "q" 'ä' `
	w := newWorld(t, odd+strings.Repeat("x", 200-len(odd)))
	w.ok(t, "up", "odd")
	w.ok(t, "exec", "odd", "--", "sh", "-c", "echo y > 'made here'")
	if got := w.read(t, "made here"); got != "y\n" {
		t.Errorf("read %q", got)
	}
	if got := strings.TrimSuffix(w.ok(t, "exec", "--", "pwd"), "\n"); got != w.project {
		t.Errorf("pwd is %q", got)
	}
}
