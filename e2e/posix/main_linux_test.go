package main

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain is the program itself where a check started it again.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the processes that checks start
	os.Exit(m.Run())
}

// TestReference: the host's own file system has what is asked of the guest's.
func TestReference(t *testing.T) {
	var out bytes.Buffer
	if status := run([]string{t.TempDir()}, &out); status != 0 {
		t.Errorf("status %d:\n%s", status, &out)
	}
}

// TestReferenceUser is the same as an ordinary user.
func TestReferenceUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the test above ran as one")
	}
	dir, err := os.MkdirTemp("", "posix") // the folder of t.TempDir is nobody else's
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/self", data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/work", 0o777); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, dir + "/work"} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(dir+"/self", dir+"/work")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestFaults: a check that fails is heard.
func TestFaults(t *testing.T) {
	var out bytes.Buffer
	if status := run([]string{"-only", "mkdir", "/proc/none"}, &out); status != 1 || !bytes.Contains(out.Bytes(), []byte("FAULT mkdir")) {
		t.Errorf("status %d: %s", status, &out)
	}
	s := &scene{dir: t.TempDir()}
	s.is("nothing", os.ErrNotExist, nil)
	same(s, "one", 1, 2)
	s.content("none", "x")
	if len(s.faults) != 4 { // it is not there, and not what it should be
		t.Errorf("%q", s.faults)
	}
	for _, args := range [][]string{nil, {"a", "b"}, {"-none", "x"}, {childArg, "none", "x", "1"}} {
		if status := run(args, &out); status != 2 {
			t.Errorf("%q: status %d", args, status)
		}
	}
}
