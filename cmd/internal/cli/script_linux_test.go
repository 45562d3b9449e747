package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sbx-vm/sbx/cmd/internal/cli"
)

// TestMain makes this binary three programs: the test, sbx, and the QEMU that the
// scripts find on PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sbx":                 func() { os.Exit(sbx()) },
		"qemu-system-x86_64":  standInQEMU,
		"qemu-system-aarch64": standInQEMU,
		"qemu-img":            standInImg,
		"exe":                 again,
	})
}

// sbx is the real command line. Only the confining step is left out: the stand-in
// QEMU runs the guest's commands on this machine, which no confined QEMU could.
func sbx() int {
	args := os.Args[1:]
	if len(args) > 3 && args[0] == "__confine" {
		if err := syscall.Exec(args[3], args[3:], append(os.Environ(), noSleep)); err != nil {
			panic(err)
		}
	}
	return cli.Main(context.Background(), args, cli.System("v0.0.0-test"))
}

// again is this binary started as /proc/self/exe: by the guest's SSH server to serve
// files, and by the supervisor for sbx' file server.
func again() {
	if len(os.Args) < 2 || os.Args[1] != "sftp" {
		os.Exit(sbx())
	}
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	if err == nil {
		err = server.Serve()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "stand-in sftp:", err)
		os.Exit(1)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup:              setupScript,
		Cmds:               map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "killpid": killPid},
	})
}

// noSleep keeps the race detector from sleeping a second at every process' end.
const noSleep = "GORACE=atexit_sleep_ms=0"

// setupScript gives each script a user of its own with an image, and sees to it
// that none of its sandboxes outlives it.
func setupScript(env *testscript.Env) error {
	home := filepath.Join(env.WorkDir, "home")
	for _, dir := range []string{home, filepath.Join(env.WorkDir, "shop")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	env.Setenv("HOME", home)
	env.Setenv("SBX_HOME", filepath.Join(env.WorkDir, "sbx"))
	env.Setenv("SBX_ACCEL", "tcg")
	env.Vars = append(env.Vars, noSleep)
	env.Cd = filepath.Join(env.WorkDir, "shop")
	if err := fakeImage(filepath.Join(env.WorkDir, "sbx", "cache")); err != nil {
		return err
	}
	env.Defer(func() {
		cmd := exec.Command("sbx", "rm", "--all", "-f")
		cmd.Env, cmd.Dir = env.Vars, env.WorkDir
		if out, err := cmd.CombinedOutput(); err != nil {
			env.T().Log("rm --all: ", err, string(out))
		}
	})
	return nil
}

// exits runs a command and checks its exit status: exits 7 sbx exec -- sh -c 'exit 7'.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS command…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	status := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if status != want {
		ts.Fatalf("exit status %d, want %d", status, want)
	}
}

// killPid sends SIGKILL to the pid in a file.
func killPid(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: killpid file")
	}
	data := []byte(ts.ReadFile(args[0]))
	pid, err := strconv.Atoi(string(data))
	ts.Check(err)
	if pid <= 1 {
		ts.Fatalf("pid %d", pid)
	}
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}
