package share

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// isConfig tells whether a name is that of a git configuration.
func (t *Tree) isConfig(dir *node, name string) bool {
	at, err := t.below(dir, name)
	return err == nil && !at.ordinary && t.opts.Guard.Vetted(at.parts)
}

// replaceConfig does what git does when it changes its configuration: config.lock becomes
// config. What is checked is copied to a file that the guest never had open, and the copy
// takes the place. The caller holds names for writing, so nobody opens the copy before.
func (t *Tree) replaceConfig(from *node, old string, to *node, name string) fuse.Status {
	place, err := t.below(from, old)
	if err != nil {
		return status(err)
	}
	if s := t.mayName(from, old, place, unix.S_IFDIR); s != fuse.OK {
		return s
	}
	parts, err := t.place(to)
	if err != nil {
		return status(err)
	}
	if s := t.allow(to.export, parts); s != fuse.OK {
		return s
	}
	after, mode, err := readConfig(from.fd, old)
	if err != nil {
		return status(err)
	}
	before, _, err := readConfig(to.fd, name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return status(err)
	}
	if err := guard.CheckConfig(append(parts, name), before, after); err != nil {
		return t.refuse("change of git's configuration refused: "+err.Error(), to.export, append(parts, name))
	}
	target, source := t.entryOf(to, name), t.entryOf(from, old)
	if err := t.before(target); err != nil {
		return status(err)
	}
	if err := putConfig(to.fd, name, after, mode); err != nil {
		return status(err)
	}
	t.after(target)
	err = unix.Unlinkat(from.fd, old, 0)
	t.after(source)
	return status(err)
}

// readConfig reads a regular file of bounded size.
func readConfig(dir int, name string) ([]byte, uint32, error) {
	fd, err := beneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := stat(fd)
	if err != nil {
		return nil, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, 0, unix.EPERM
	}
	b, err := io.ReadAll(io.LimitReader(f, guard.MaxConfig+1))
	if err == nil && len(b) > guard.MaxConfig {
		err = unix.EFBIG
	}
	return b, st.Mode & 0o777, err
}

// putConfig writes a new file and gives it the name.
func putConfig(dir int, name string, content []byte, mode uint32) error {
	temporary := "config.sbx-" + rand.Text()
	fd, err := beneath(dir, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temporary)
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(dir, temporary, dir, name)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(dir, temporary, 0))
	}
	return nil
}

// staleLock is how old another's lock of a configuration must be for the guest to take it away: git holds it for
// the time of one write.
const staleLock = time.Minute

// own notes that the guest made a lock of a configuration, by the number that it was told. Whose it is counts: git on the
// host moves its lock to its place by name. What the guest could write to, or put in the lock's place, would be the
// configuration then.
func (t *Tree) own(id uint64, made func(*node) bool) {
	n := t.node(id)
	if n != nil && made(n) {
		n.own.Store(true)
	}
	t.release(n)
}

// othersLock tells whether the lock of a configuration stands at a name, and is not the guest's.
func (t *Tree) othersLock(dir *node, name string, parts []string) bool {
	if !guard.IsLock(parts) {
		return false
	}
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return err == nil && t.others(dir.export, &st)
}

func (t *Tree) others(e *export, st *unix.Stat_t) bool {
	if time.Since(time.Unix(st.Ctim.Sec, st.Ctim.Nsec)) > staleLock {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[keyOf(e.index, st)]
	return n == nil || !n.own.Load()
}
