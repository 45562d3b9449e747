package confine

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sealVar makes the test binary a sealed process that works in the folder of the value.
const sealVar = "SBX_TEST_SEALED"

// sealed tries what a file server does, and what one that a guest took over would do; it prints the errors.
func sealed(dir string) {
	done := make(chan error)
	go func() { done <- nil }() // another thread is there before
	<-done
	if err := Seal(); err != nil {
		panic(err)
	}
	tried := map[string]error{}
	file := filepath.Join(dir, "file")
	tried["write"] = os.WriteFile(file, []byte("x"), 0o600)
	tried["rename"] = os.Rename(file, file+"2")
	_, tried["list"] = os.ReadDir(dir)
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	tried["memory"] = errors.Join(err, unix.Close(fd))
	go func() {
		_, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		done <- err
	}()
	tried["a socket"] = <-done
	tried["a program"] = syscall.Exec("/bin/true", []string{"true"}, nil)
	tried["a namespace"] = unix.Unshare(unix.CLONE_NEWUSER)
	_, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	tried["a child in a namespace"] = errno
	_, _, errno = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
	tried["a ring"] = errno
	tried["another's memory"] = unix.PtraceAttach(1)
	out := map[string]string{}
	for what, err := range tried {
		if err != nil {
			out[what] = err.Error()
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	out["status"] = string(status)
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

func TestSealedProcessServesFilesAndNothingElse(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env, cmd.Stderr = []string{sealVar + "=" + t.TempDir()}, os.Stderr
	said, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(said, &got); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for _, may := range []string{"write", "rename", "list", "memory"} {
		if got[may] != "" {
			t.Errorf("%s: %s", may, got[may])
		}
	}
	for _, not := range []string{"a socket", "a program", "a namespace", "a child in a namespace", "a ring", "another's memory"} {
		if got[not] != unix.EPERM.Error() {
			t.Errorf("%s: %q", not, got[not])
		}
	}
	if !strings.Contains(got["status"], "Seccomp:\t2\n") {
		t.Errorf("no filter in the status:\n%s", got["status"])
	}
}
