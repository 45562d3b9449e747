package confine

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel end the child with the thread that started it. The
// caller must start it from a locked OS thread that lives as long as itself.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// Landlock tells the version of the kernel's Landlock, 0 where it has none.
func Landlock() int {
	version, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return version
}

func become(p Profile, program string, argv []string) error {
	// All of this is per thread until exec, which leaves only this thread.
	runtime.LockOSThread()
	parent := os.Getppid()
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("no core dumps: %w", err)
	}
	if p.NoFiles != 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: p.NoFiles, Max: p.NoFiles}); err != nil {
			return fmt.Errorf("limit descriptors to %d: %w", p.NoFiles, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := restrict(p); err != nil {
		return err
	}
	if err := dropPrivileges(p); err != nil {
		return err
	}
	// A change of uid clears the death signal that the parent set.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the parent: %w", err)
	}
	if os.Getppid() != parent {
		return fmt.Errorf("the parent ended")
	}
	return syscall.Exec(program, argv, os.Environ())
}

// restrict applies Landlock as far as the kernel has it.
func restrict(p Profile) error {
	if p.Namespaces || Landlock() == 0 {
		return nil
	}
	// The program's own loader and libraries, and what every program reads.
	rules := []landlock.Rule{
		landlock.RODirs("/usr", "/lib", "/lib64", "/bin", "/opt", "/nix/store", "/proc", "/sys/devices/system").IgnoreIfMissing(),
		landlock.ROFiles("/etc/ld.so.cache").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null", "/dev/zero", "/dev/urandom").IgnoreIfMissing().WithIoctlDev(),
		landlock.RWFiles(p.Devices...).IgnoreIfMissing().WithIoctlDev(),
	}
	rules = append(rules, pathRules(p)...)
	// Beside the files: no TCP or UDP of its own, no abstract sockets, no signals to others.
	if err := landlock.V9.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

func pathRules(p Profile) []landlock.Rule {
	var rules []landlock.Rule
	add := func(paths []string, dir, file func(...string) landlock.FSRule) {
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				rules = append(rules, dir(path))
			} else if err == nil {
				rules = append(rules, file(path))
			}
		}
	}
	add(p.Read, landlock.RODirs, landlock.ROFiles)
	add(p.Exec, landlock.RODirs, landlock.ROFiles)
	// Refer: without it a move between two folders of one grant is a move between devices.
	add(p.Write, func(paths ...string) landlock.FSRule { return landlock.RWDirs(paths...).WithRefer() }, landlock.RWFiles)
	return rules
}

// dropPrivileges gives up every capability, and root where a uid is named.
func dropPrivileges(p Profile) error {
	if os.Geteuid() == 0 {
		if err := clearBoundingSet(); err != nil {
			return err
		}
		if err := changeUser(p); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// clearBoundingSet and the securebits keep a uid of 0 from getting capabilities
// back at exec.
func clearBoundingSet() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	const noRoot, noRootLocked = 1 << 0, 1 << 1 // SECBIT_NOROOT, capabilities(7)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot|noRootLocked, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	return nil
}

func changeUser(p Profile) error {
	// The supervisor may be a member of docker or disk: those groups go first.
	if err := syscall.Setgroups(p.Groups); err != nil {
		return fmt.Errorf("set groups to %v: %w", p.Groups, err)
	}
	if p.GID != 0 {
		if err := syscall.Setresgid(p.GID, p.GID, p.GID); err != nil {
			return fmt.Errorf("become group %d: %w", p.GID, err)
		}
	}
	if p.UID != 0 {
		if err := syscall.Setresuid(p.UID, p.UID, p.UID); err != nil {
			return fmt.Errorf("become user %d: %w", p.UID, err)
		}
	}
	return nil
}
