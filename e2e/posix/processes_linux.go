package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// childArg is the first argument of a second process; the next names what it does, in which folder.
const childArg = "__child"

// task is what a second process does in a folder. n is its number.
type task func(dir string, n int) error

func tasks() map[string]task {
	return map[string]task{
		"flock": tryFlock, "fcntl": tryFcntl, "count": countShared, "pages": writePages,
		"exclusive": makeExclusive, "storm": makeAndRemove,
	}
}

// child runs a task and prints its error.
func child(args []string, out io.Writer) int {
	if len(args) != 3 || tasks()[args[0]] == nil {
		fmt.Fprintf(out, "not a task: %q", args)
		return 2
	}
	n, err := strconv.Atoi(args[2])
	if err == nil {
		err = tasks()[args[0]](args[1], n)
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		fmt.Fprint(out, unix.ErrnoName(errno))
	} else if err != nil {
		fmt.Fprint(out, err)
	}
	return 0
}

// other starts a second process in the scene's folder.
func (s *scene) other(name string, n int) (*exec.Cmd, *bytes.Buffer) {
	self, err := os.Executable()
	s.is("own program", err, nil)
	cmd, said := exec.CommandContext(context.Background(), self, childArg, name, s.dir, strconv.Itoa(n)), &bytes.Buffer{}
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdout, cmd.Stderr = said, said
	s.is("start", cmd.Start(), nil)
	return cmd, said
}

// childEnv tells the test's own program that it is a second process.
const childEnv = "POSIX_CHILD"

// says runs a second process to its end; it must print want.
func (s *scene) says(what, name, want string) {
	cmd, said := s.other(name, 0)
	s.is(what, cmd.Wait(), nil)
	same(s, what, said.String(), want)
}

// all runs processes side by side; none may say a word.
func (s *scene) all(name string, count int) {
	var wait []func()
	for n := range count {
		cmd, said := s.other(name, n)
		wait = append(wait, func() {
			s.is(name, cmd.Wait(), nil)
			same(s, name+" "+strconv.Itoa(n), said.String(), "")
		})
	}
	for _, f := range wait {
		f()
	}
}

func checkFlock(s *scene) {
	s.file("file", "x")
	s.with("file", unix.O_RDONLY, func(fd int) {
		s.is("lock", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), nil)
		s.says("beside an exclusive lock", "flock", "EAGAIN")
		s.is("share", unix.Flock(fd, unix.LOCK_SH), nil)
		s.says("beside a shared lock", "flock", "EAGAIN")
		s.is("unlock", unix.Flock(fd, unix.LOCK_UN), nil)
		s.says("beside none", "flock", "")
		s.is("lock again, the other process is gone", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), nil)
	})
	s.says("after close", "flock", "")
}

func tryFlock(dir string, _ int) error {
	f, err := os.Open(dir + "/file")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

func checkFcntl(s *scene) {
	s.file("file", strings.Repeat("x", 100))
	s.with("file", unix.O_RDWR, func(fd int) {
		for name, command := range map[string]int{"of a process": unix.F_SETLK, "of a descriptor": unix.F_OFD_SETLK} {
			set := func(kind int16, from, size int64) error {
				return unix.FcntlFlock(uintptr(fd), command, &unix.Flock_t{Type: kind, Start: from, Len: size})
			}
			s.is("lock "+name, set(unix.F_WRLCK, 0, 50), nil)
			s.says("beside a lock "+name, "fcntl", "EAGAIN")
			s.is("unlock half", set(unix.F_UNLCK, 0, 10), nil)
			s.says("beside a lock elsewhere", "fcntl", "")
			s.is("unlock", set(unix.F_UNLCK, 0, 0), nil)
		}
	})
}

// tryFcntl wants the first ten bytes.
func tryFcntl(dir string, _ int) error {
	f, err := os.OpenFile(dir+"/file", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10})
}

const (
	raceNames = 50
	racers    = 4
)

// checkExclusive: of several that make a name, one does.
func checkExclusive(s *scene) {
	s.all("exclusive", racers)
	for i := range raceNames {
		won := 0
		for n := range racers {
			if _, err := os.Lstat(s.path(fmt.Sprintf("won-%d-%d", i, n))); err == nil {
				won++
			}
		}
		same(s, fmt.Sprintf("who made %d", i), won, 1)
	}
}

func makeExclusive(dir string, n int) error {
	for i := range raceNames {
		err := os.Mkdir(fmt.Sprintf("%s/%d", dir, i), 0o777)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(fmt.Sprintf("%s/won-%d-%d", dir, i, n), nil, 0o666)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkStorm: several make and remove the same tree. Each call may come too late, and nothing is left.
func checkStorm(s *scene) {
	s.all("storm", racers)
	left, err := os.ReadDir(s.dir)
	s.is("list", err, nil)
	for _, e := range left {
		s.fault("left: %s", e.Name())
	}
}

func makeAndRemove(dir string, n int) error {
	const rounds = 8
	for i := range rounds {
		for j := range 4 {
			below := fmt.Sprintf("%s/tree/%d/deep", dir, j)
			err := os.MkdirAll(below, 0o777)
			if err == nil {
				err = os.WriteFile(fmt.Sprintf("%s/%d-%d", below, n, i), []byte("x"), 0o666)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
		// Others put names in while this one takes them away.
		for {
			err := os.RemoveAll(dir + "/tree")
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
		}
	}
	return nil
}

// checkReplace: who opens a name while it is replaced gets one whole file or the other, and always one.
func checkReplace(s *scene) {
	const rounds = 100
	s.file("file", strings.Repeat("0", 1000))
	done := make(chan error, 1)
	go func() {
		for i := range rounds {
			err := os.WriteFile(s.path("new"), []byte(strings.Repeat(strconv.Itoa(i%10), 1000)), 0o666)
			if err == nil {
				err = os.Rename(s.path("new"), s.path("file"))
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			s.is("replace", err, nil)
			return
		default:
		}
		data, err := os.ReadFile(s.path("file"))
		if s.is("read", err, nil); err != nil || len(data) != 1000 || bytes.Count(data, data[:1]) != 1000 {
			s.fault("read %d bytes, not one file's", len(data))
			s.is("replace", <-done, nil)
			return
		}
	}
}
