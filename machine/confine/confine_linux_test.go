package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// probeVar makes the test binary the confined program: it tries what the value
// lists and prints what it could do.
const probeVar = "SBX_TEST_CONFINED"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Subcommand {
		fmt.Fprintln(os.Stderr, Run(os.Args[2:]))
		os.Exit(125)
	}
	if dir := os.Getenv(sealVar); dir != "" {
		sealed(dir)
		return
	}
	if wish := os.Getenv(probeVar); wish != "" {
		confined(wish)
		return
	}
	os.Exit(m.Run())
}

type wishes struct {
	Read, Write, Dial, Move string
	Sleep                   bool
}

type found struct {
	Status                          string // /proc/self/status
	Read, Write, Dial, Passed, Move string // errors, empty when it worked
	Core, Files                     uint64 // limits
}

func confined(wish string) {
	var w wishes
	if err := json.Unmarshal([]byte(wish), &w); err != nil {
		panic(err)
	}
	if w.Sleep {
		fmt.Println("{}")
		time.Sleep(time.Minute)
	}
	var f found
	text := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return ""
	}
	status, _ := os.ReadFile("/proc/self/status")
	f.Status = string(status)
	_, err := os.ReadFile(w.Read)
	f.Read = text(err)
	f.Write = text(os.WriteFile(w.Write, nil, 0o600))
	if w.Move != "" {
		f.Move = text(os.Rename(w.Write, w.Move))
	}
	conn, err := net.DialTimeout("tcp", w.Dial, time.Second)
	if f.Dial = text(err); err == nil {
		conn.Close()
	}
	_, err = os.NewFile(3, "passed").WriteString("x")
	f.Passed = text(err)
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &limit)
	f.Core = limit.Max
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	f.Files = limit.Max
	_ = json.NewEncoder(os.Stdout).Encode(f)
}

// program copies the test binary to where a uid that is nobody can execute it.
func program(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// world is a folder that everybody may enter: only the ruleset can refuse what is in it.
func world(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sbx-confine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"", "granted", "secret"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, sub), 0o777), os.Chmod(filepath.Join(dir, sub), 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"granted/file", "secret/file"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, p Profile, w wishes) found {
	t.Helper()
	wish, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := Command("/proc/self/exe", p, program(t, world(t)))
	if err != nil {
		t.Fatal(err)
	}
	passed, err := os.CreateTemp(t.TempDir(), "passed")
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	var out, complaints bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{probeVar + "=" + string(wish)}, &out, &complaints
	cmd.ExtraFiles = []*os.File{passed}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &complaints)
	}
	var f found
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return f
}

func nobody() Profile {
	p := Profile{NoFiles: 128}
	if os.Getuid() == 0 {
		p.UID, p.GID = 0x70000001, 0x70000002
	}
	return p
}

func checkStatus(t *testing.T, status string, lines ...string) {
	t.Helper()
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		lines = append(lines, set+":\t0000000000000000")
	}
	for _, want := range append(lines, "NoNewPrivs:\t1") {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("no %q in the child's status:\n%s", want, status)
		}
	}
}

func TestChildIsNobodyAndKeepsItsDescriptors(t *testing.T) {
	dir := world(t)
	p := nobody()
	p.Read = []string{filepath.Join(dir, "granted")}
	f := run(t, p, wishes{Read: filepath.Join(dir, "granted/file"), Write: filepath.Join(dir, "secret/new"), Dial: "127.0.0.1:1"})
	checkStatus(t, f.Status)
	if os.Getuid() == 0 {
		checkStatus(t, f.Status,
			"Uid:\t1879048193\t1879048193\t1879048193\t1879048193", "Gid:\t1879048194\t1879048194\t1879048194\t1879048194",
			"Groups:\t ", "CapBnd:\t0000000000000000")
	}
	if f.Read != "" || f.Passed != "" {
		t.Errorf("what was granted is refused: %q, %q", f.Read, f.Passed)
	}
	if f.Core != 0 || f.Files != 128 {
		t.Errorf("limits are %d and %d, want 0 and 128", f.Core, f.Files)
	}
}

func TestRootWithoutAUIDHasNoCapability(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	dir := world(t)
	foreign := filepath.Join(dir, "secret/file")
	if err := errors.Join(os.Chown(foreign, 4711, 4711), os.Chmod(foreign, 0o600)); err != nil {
		t.Fatal(err)
	}
	f := run(t, Profile{Read: []string{dir}}, wishes{Read: foreign, Write: filepath.Join(dir, "x"), Dial: "127.0.0.1:1"})
	checkStatus(t, f.Status, "Uid:\t0\t0\t0\t0", "CapBnd:\t0000000000000000")
	if f.Read == "" {
		t.Error("a root without capabilities read another user's private file")
	}
}

func TestLandlockRefusesTheRest(t *testing.T) {
	if Landlock() == 0 {
		t.Skip("this kernel has no Landlock")
	}
	dir := world(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := nobody()
	p.Read, p.Write = []string{filepath.Join(dir, "secret/file")}, []string{filepath.Join(dir, "granted")}
	inner := filepath.Join(dir, "granted/inner")
	if err := errors.Join(os.Mkdir(inner, 0o777), os.Chmod(inner, 0o777)); err != nil {
		t.Fatal(err)
	}
	f := run(t, p, wishes{
		Read: filepath.Join(dir, "secret/file"), Write: filepath.Join(dir, "granted/new"), Move: filepath.Join(inner, "moved"), Dial: l.Addr().String(),
	})
	if f.Read != "" || f.Write != "" || f.Move != "" {
		t.Errorf("what was granted is refused: read %q, write %q, move to another folder %q", f.Read, f.Write, f.Move)
	}
	if Landlock() >= 4 && f.Dial == "" {
		t.Error("a confined child made a TCP connection")
	}
	p.Read, p.Write = nil, nil
	f = run(t, p, wishes{Read: filepath.Join(dir, "secret/file"), Write: filepath.Join(dir, "granted/new2"), Dial: l.Addr().String()})
	if f.Read == "" || f.Write == "" {
		t.Errorf("what nobody granted worked: read %q, write %q", f.Read, f.Write)
	}
}

func TestLandlockGrantsDevicesByName(t *testing.T) {
	if Landlock() == 0 {
		t.Skip("this kernel has no Landlock")
	}
	const device = "/dev/full"
	p, dir := nobody(), world(t)
	w := wishes{Read: filepath.Join(dir, "secret/file"), Write: device, Dial: "127.0.0.1:1"}
	if f := run(t, p, w); !strings.Contains(f.Write, "permission denied") {
		t.Errorf("a device that nobody granted was opened: %q", f.Write)
	}
	p.Devices = []string{device}
	if f := run(t, p, w); !strings.Contains(f.Write, "no space") { // what this device says to who may write
		t.Errorf("a device that was granted: %q", f.Write)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"{}"}, {"{}", "--"}, {"{}", "true", "--"}, {"no JSON", "--", "/bin/true"}, {"{}", "--", "/no/such/program"}} {
		if err := Run(args); err == nil {
			t.Fatalf("ran %q", args)
		}
	}
}

// TestChildDiesWithItsParent ends a process between us and the child by SIGKILL.
func TestChildDiesWithItsParent(t *testing.T) {
	wish, _ := json.Marshal(wishes{Sleep: true})
	child, err := Command("/proc/self/exe", nobody(), program(t, world(t)))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell is the parent; the child's death closes the pipe that both hold.
	const script = `"$@" & wait`
	parent := exec.Command("/bin/sh", append([]string{"-c", script, "sh", self}, child.Args[1:]...)...)
	parent.Env = []string{probeVar + "=" + string(wish)}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 3)); n != 3 {
		t.Fatalf("the child did not begin: %v", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := out.Read(make([]byte, 1)); ended <- err }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the child outlived its parent")
	}
	parent.Wait()
}
