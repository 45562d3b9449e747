// Command posix looks whether a folder behaves as POSIX and Linux say, from the view of a program: what calls do, and
// the error of each that must fail. Tests run it in a guest, on the workspace, as the ordinary user and as root;
// its own test runs it on the host's file system, which is the reference.
//
//	posix [-share] [-only NAME,…] [-skip NAME,…] DIR
//
// With -share the folder is sbx's, whose rules on owners, devices and attributes (docs/security.md) differ from a
// local disk's. A line is printed for each check, and one for each fault; the exit status is 1 if there was one.
// Checks that need a second process start the program again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

// check is one kind of behaviour. It gets a folder of its own.
type check struct {
	name string
	run  func(*scene)
}

func checks() []check {
	return []check{
		{"mkdir", checkMkdir},
		{"longnames", checkLongNames},
		{"link", checkLink},
		{"symlink", checkSymlink},
		{"loops", checkLoops},
		{"rename", checkRename},
		{"renameflags", checkRenameFlags},
		{"open", checkOpen},
		{"append", checkAppend},
		{"tmpfile", checkTmpfile},
		{"unlinked", checkUnlinked},
		{"removed", checkRemovedFolder},
		{"permissions", checkPermissions},
		{"truncate", checkTruncate},
		{"sparse", checkSparse},
		{"copy", checkCopy},
		{"sync", checkSync},
		{"chmod", checkChmod},
		{"chown", checkChown},
		{"times", checkTimes},
		{"xattr", checkXattr},
		{"special", checkSpecial},
		{"statfs", checkStatfs},
		{"readdir", checkReaddir},
		{"many", checkMany},
		{"flock", checkFlock},
		{"fcntl", checkFcntl},
		{"mmap", checkMmap},
		{"mmapappend", checkMmapAppend},
		{"counters", checkCounters},
		{"random", checkRandom},
		{"replace", checkReplace},
		{"exclusive", checkExclusive},
		{"storm", checkStorm},
	}
}

func run(args []string, out io.Writer) int {
	if len(args) > 1 && args[0] == childArg {
		return child(args[1:], out)
	}
	flags := flag.NewFlagSet("posix", flag.ContinueOnError)
	flags.SetOutput(out)
	share := flags.Bool("share", false, "the folder is sbx's")
	only := flags.String("only", "", "names of checks, separated by commas: no others")
	skip := flags.String("skip", "", "names of checks: these not")
	if flags.Parse(args) != nil || flags.NArg() != 1 {
		fmt.Fprintln(out, "usage: posix [-share] [-only NAME,…] [-skip NAME,…] DIR")
		return 2
	}
	dir, err := filepath.Abs(flags.Arg(0))
	if err != nil {
		fmt.Fprintln(out, err)
		return 2
	}
	unix.Umask(0)
	faults := 0
	for _, c := range checks() {
		if *only != "" && !named(*only, c.name) || named(*skip, c.name) {
			continue
		}
		s := &scene{dir: filepath.Join(dir, c.name), share: *share, root: os.Geteuid() == 0}
		if err := os.MkdirAll(s.dir, 0o777); err != nil {
			s.fault("%v", err)
		} else {
			c.run(s)
		}
		s.is("remove what is left", os.RemoveAll(s.dir), nil)
		for _, f := range s.faults {
			fmt.Fprintf(out, "FAULT %s: %s\n", c.name, f)
		}
		if len(s.faults) == 0 {
			fmt.Fprintf(out, "ok %s\n", c.name)
		}
		faults += len(s.faults)
	}
	return min(faults, 1)
}

func named(list, name string) bool { return slices.Contains(strings.Split(list, ","), name) }

// scene is where a check happens.
type scene struct {
	dir    string
	share  bool
	root   bool
	faults []string
}

func (s *scene) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// is compares the error of a call; a nil want is success.
func (s *scene) is(what string, err, want error) {
	if !errors.Is(err, want) {
		s.fault("%s: %v, want %v", what, err, want)
	}
}

// same compares two values of a call.
func same[T comparable](s *scene, what string, got, want T) {
	if got != want {
		s.fault("%s: %v, want %v", what, got, want)
	}
}

func (s *scene) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

// file makes one and gives its path.
func (s *scene) file(name, content string) string {
	s.is("make "+name, os.WriteFile(s.path(name), []byte(content), 0o666), nil)
	return s.path(name)
}

// folder makes one and gives its path.
func (s *scene) folder(name string) string {
	s.is("make "+name, os.Mkdir(s.path(name), 0o777), nil)
	return s.path(name)
}

func (s *scene) content(name, want string) {
	data, err := os.ReadFile(s.path(name))
	s.is("read "+name, err, nil)
	if string(data) != want {
		s.fault("%s holds %.60q (%d bytes), want %.60q", name, data, len(data), want)
	}
}

func (s *scene) stat(name string) (st unix.Stat_t) {
	s.is("lstat "+name, unix.Lstat(s.path(name), &st), nil)
	return st
}

// gone says that nothing has the name.
func (s *scene) gone(name string) {
	var st unix.Stat_t
	s.is("lstat "+name, unix.Lstat(s.path(name), &st), unix.ENOENT)
}

// open opens and closes: only the error is of interest.
func (s *scene) open(what, path string, flags int, want error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o666)
	s.is(what, err, want)
	if err == nil {
		unix.Close(fd)
	}
}

// with opens for f.
func (s *scene) with(name string, flags int, f func(fd int)) {
	fd, err := unix.Open(s.path(name), flags|unix.O_CLOEXEC, 0o666)
	if s.is("open "+name, err, nil); err != nil {
		return
	}
	defer unix.Close(fd)
	f(fd)
}

// put writes all of a text at the descriptor's place.
func (s *scene) put(fd int, text string) {
	n, err := unix.Write(fd, []byte(text))
	s.is("write", err, nil)
	same(s, "bytes written", n, len(text))
}
