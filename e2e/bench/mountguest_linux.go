package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// mountWord is the bench's own program in the guest: mountguest FOLDER TARBALL.
const mountWord = "mountguest"

// Sizes of the work on a mount.
const (
	mountFiles  = 1000
	mountSmall  = 1000     // bytes of a small file
	mountLarge  = 64 << 20 // bytes of a large one
	mountRandom = 2000     // accesses of 4 KiB
	mountRepo   = "repo"   // made by the host: 10,000 files
)

// staleAfter is when what a mount remembers of names and attributes is asked for again.
const staleAfter = 1100 * time.Millisecond

// runMountGuest does each piece of work once in a fresh folder of a mount and prints how
// many milliseconds it took, by name, as JSON.
func runMountGuest(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s FOLDER TARBALL", mountWord)
	}
	m := mountWork{root: args[0], dir: filepath.Join(args[0], "bench"), tarball: args[1], took: map[string]float64{}}
	if err := os.RemoveAll(m.dir); err != nil {
		return err
	}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return err
	}
	// Large reads and writes are the least of three: the guest's own work on its memory takes up to as long again, whoever serves,
	// while the server waits.
	for _, one := range []mountPart{
		{"create", m.create, true, 1}, {"stat", m.stat, true, 1}, {"read", m.read, true, 1}, {"delete", m.remove, true, 1},
		{"seqwrite", m.writeLarge, false, 3}, {"seqread", m.readLarge, true, 3},
		{"randread", m.randomRead, true, 1}, {"randwrite", m.randomWrite, true, 1},
		{"", m.gitStatus, false, 1}, {"gitstatus", m.gitStatus, true, 1}, {"untar", m.untar, false, 1}, {"rmtree", m.removeTree, true, 1},
	} {
		took, err := one.least()
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		if one.name != "" {
			m.took[one.name] = millis(took)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(m.took)
}

// mountPart is a piece of work.
type mountPart struct {
	name  string // empty: what the next needs, not measured
	do    func() error
	cold  bool // nothing is remembered of what was there
	times int
}

// least does it so many times and tells how long the fastest took.
func (p mountPart) least() (least time.Duration, err error) {
	for i := range p.times {
		if p.cold {
			if err := forget(); err != nil {
				return 0, err
			}
		}
		start := time.Now()
		if err := p.do(); err != nil {
			return 0, err
		}
		if took := time.Since(start); i == 0 || took < least {
			least = took
		}
	}
	return least, nil
}

// forget empties the guest's caches of names, attributes and pages.
func forget() error {
	time.Sleep(staleAfter)
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644)
}

type mountWork struct {
	root, dir, tarball string
	took               map[string]float64
}

func (m mountWork) each(f func(path string) error) error {
	for i := range mountFiles {
		if err := f(filepath.Join(m.dir, "f"+strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

func (m mountWork) create() error {
	content := bytes.Repeat([]byte("x"), mountSmall)
	return m.each(func(path string) error { return os.WriteFile(path, content, 0o644) })
}

func (m mountWork) stat() error {
	return m.each(func(path string) error { _, err := os.Stat(path); return err })
}

func (m mountWork) read() error {
	return m.each(func(path string) error {
		content, err := os.ReadFile(path)
		if err == nil && len(content) != mountSmall {
			err = fmt.Errorf("%d bytes", len(content))
		}
		return err
	})
}

func (m mountWork) remove() error { return m.each(os.Remove) }

func (m mountWork) large() string { return filepath.Join(m.dir, "large") }

func (m mountWork) writeLarge() error {
	f, err := os.Create(m.large())
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte("y"), 1<<20)
	for range mountLarge >> 20 {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (m mountWork) readLarge() error {
	f, err := os.Open(m.large())
	if err != nil {
		return err
	}
	defer f.Close()
	// Not io.Copy: it would splice.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err == nil && n != mountLarge {
		err = fmt.Errorf("%d bytes", n)
	}
	return err
}

func (m mountWork) random(flags int, access func(f *os.File, block []byte, at int64) error) error {
	f, err := os.OpenFile(m.large(), flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	places, block := rand.New(rand.NewPCG(1, 2)), make([]byte, 4096)
	for range mountRandom {
		if err := access(f, block, places.Int64N(mountLarge/4096)*4096); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (m mountWork) randomRead() error {
	return m.random(os.O_RDONLY, func(f *os.File, block []byte, at int64) error { _, err := f.ReadAt(block, at); return err })
}

func (m mountWork) randomWrite() error {
	return m.random(os.O_RDWR, func(f *os.File, block []byte, at int64) error { _, err := f.WriteAt(block, at); return err })
}

func (m mountWork) gitStatus() error {
	cmd := exec.Command("git", "-c", "safe.directory=*", "-C", filepath.Join(m.root, mountRepo), "status", "--short") //nolint:noctx // ended with the guest
	out, err := cmd.CombinedOutput()
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("the repository changed: %.200s", out)
	}
	return err
}

func (m mountWork) untar() error {
	out, err := exec.Command("tar", "-x", "--no-same-owner", "-f", m.tarball, "-C", m.dir).CombinedOutput() //nolint:noctx // see above
	if err != nil {
		return fmt.Errorf("%w: %.200s", err, out)
	}
	return nil
}

func (m mountWork) removeTree() error { return os.RemoveAll(m.dir) }
