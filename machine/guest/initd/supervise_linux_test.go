package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The reaper gives each child its own status, however many end at once.
func TestReaper(t *testing.T) {
	r := &reaper{children: map[int]chan syscall.WaitStatus{}}
	stop := make(chan struct{})
	var reaping sync.WaitGroup
	reaping.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				r.reap()
			}
		}
	})
	defer reaping.Wait()
	defer close(stop)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			ended, err := r.start([]string{"/bin/sh", "-c", fmt.Sprintf("exit %d", i)}, &syscall.ProcAttr{})
			if err != nil {
				t.Error(err)
				return
			}
			if status := <-ended; status.ExitStatus() != i {
				t.Errorf("child %d: %s", i, describe(status))
			}
		})
	}
	all.Wait()
	if _, err := r.start([]string{"/does/not/exist"}, &syscall.ProcAttr{}); err == nil {
		t.Error("a program that is not there was started")
	}
	r.end()
	if _, err := r.start([]string{"/bin/true"}, &syscall.ProcAttr{}); !errors.Is(err, errEnding) {
		t.Errorf("something started while the guest ends: %v", err)
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.json")
	for text, ok := range map[string]bool{
		`{"version":1,"hostname":"a"}`: true, `{"version":2}`: false, `{}`: false, ``: false, `[]`: false, `{"version":1`: false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := readConfig(path); (err == nil) != ok {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	if _, err := readConfig(path + "x"); err == nil {
		t.Error("a document that is not there was read")
	}
}

// Only PID 1 is the guest's first process.
func TestMainByHand(t *testing.T) {
	for _, args := range [][]string{{"sbx-guest"}, {"sbx-guest", "stage2"}, {"sbx-guest", "listen-exec"}, {"sbx-guest", "--help"}, nil} {
		if status := Main(args); status != 1 {
			t.Errorf("%q: status %d", args, status)
		}
	}
}
