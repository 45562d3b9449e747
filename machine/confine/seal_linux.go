package confine

import (
	"fmt"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// Seal leaves the calling process the system calls that a program needs that serves files and becomes no other: no
// sockets of its own, no programs, no namespaces, no mounts, nobody else's memory, nothing that a later kernel adds. All else
// is EPERM. It holds for all threads and cannot be taken back (seccomp(2)). The error says that the kernel did not
// do it.
func Seal() error {
	here, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	var names []string
	for name := range strings.FieldsSeq(fileServerCalls) {
		if _, ok := here.SyscallNames[name]; ok { // arm64 has no open, stat …
			names = append(names, name)
		}
	}
	filter := seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: names, NamesWithCondtions: []seccomp.NameWithConditions{threads()}},
			// Its flags are in memory, where no filter sees them. The C library takes clone then.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		}},
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// threads is clone(2) without new namespaces.
func threads() seccomp.NameWithConditions {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	return seccomp.NameWithConditions{Name: "clone", Conditions: []seccomp.Condition{{Argument: 0, Operation: seccomp.BitsNotSet, Value: namespaces}}}
}

// fileServerCalls are those of Go's runtime, of sync/virtiofs and of sync/journal, with their close kin: what a
// later version of Go is likely to use instead of another.
const fileServerCalls = `
	read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 lseek sendfile splice copy_file_range
	open openat openat2 creat close close_range dup dup2 dup3 pipe pipe2 fcntl ioctl flock
	stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2 getcwd chdir fchdir
	getdents64 readlink readlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat mknod mknodat
	chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes utimensat futimesat umask
	truncate ftruncate fallocate fadvise64 readahead fsync fdatasync syncfs sync_file_range
	setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr
	inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
	mmap munmap mprotect mremap madvise mincore msync mlock munlock brk memfd_create membarrier
	eventfd eventfd2 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6
	recvmsg recvfrom sendmsg sendto shutdown getsockname getpeername getsockopt setsockopt
	exit exit_group futex futex_waitv set_robust_list get_robust_list set_tid_address rseq restart_syscall gettid getpid getppid
	sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler
	rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack kill tkill tgkill
	nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time
	timer_create timer_settime timer_gettime timer_delete setitimer getitimer
	getuid geteuid getgid getegid getresuid getresgid getgroups capget getrlimit setrlimit prlimit64 getrusage
	getrandom uname sysinfo prctl arch_prctl
`
