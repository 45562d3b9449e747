package share

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// disk is a file system of blocks of 4 KiB that counts how often it is asked.
type disk struct {
	size, free atomic.Int64
	asked      atomic.Int64
	fails      atomic.Bool
}

func (d *disk) statfs(_ int, st *unix.Statfs_t) error {
	d.asked.Add(1)
	if d.fails.Load() {
		return unix.EIO
	}
	*st = unix.Statfs_t{Bsize: 4096, Frsize: 4096, Blocks: uint64(d.size.Load() / 4096), Bavail: uint64(d.free.Load() / 4096)}
	return nil
}

func newDisk(size, free, reserve int64) (*disk, *room) {
	d := &disk{}
	d.size.Store(size)
	d.free.Store(free)
	return d, &room{reserve: reserve, statfs: d.statfs, began: time.Now()}
}

func TestRoom(t *testing.T) {
	for name, c := range map[string]struct {
		size, free, reserve, take int64
		want                      bool
	}{
		"large, all free":         {1 << 40, 1 << 40, 0, mib, true},
		"large, 1 GiB is left":    {1 << 40, 1<<30 + mib, 0, mib, true},
		"large, into the reserve": {1 << 40, 1<<30 + mib, 0, mib + 1, false},
		"large, in the reserve":   {1 << 40, 1 << 29, 0, 1, false},
		"small, a tenth is left":  {160 * mib, 17 * mib, 0, mib, true},
		"small, into the tenth":   {160 * mib, 17 * mib, 0, mib + 1, false},
		"own, of a small one":     {160 * mib, 160 * mib, 161 * mib, 1, false},
		"own, smaller":            {1 << 40, 2 * mib, mib, mib, true},
		"all at once":             {1 << 50, 1 << 50, 0, maxTake, false},
		"does not tell":           {0, 0, 0, 1 << 40, true},
		"does not tell, own":      {0, 0, 1 << 30, 1 << 40, true},
		"more than a number has":  {math.MaxInt64, math.MaxInt64, 0, 1 << 40, true},
	} {
		if _, r := newDisk(c.size, c.free, c.reserve); r.take(c.take) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
	d, r := newDisk(1<<40, 1<<40, 0)
	d.fails.Store(true)
	if r.take(1) {
		t.Error("written to a disk that does not answer")
	}
}

// TestRoomIsNotAskedForEach: far from the reserve the file system is asked by time alone; what is freed counts at once.
func TestRoomIsNotAskedForEach(t *testing.T) {
	d, r := newDisk(1<<40, 1<<39, 0)
	began := time.Now()
	for range 100_000 {
		if !r.take(4096) {
			t.Fatal("refused")
		}
		r.give(4096)
	}
	if most := int64(time.Since(began)/lookAgain) + 2; d.asked.Load() > most {
		t.Errorf("asked %d times, %d would do", d.asked.Load(), most)
	}
	d.free.Store(0)
	time.Sleep(lookAgain)
	if r.take(1) {
		t.Error("what the host's programs wrote was not seen")
	}
	d.free.Store(1 << 39)
	if !r.take(1) {
		t.Error("what was freed was not seen")
	}
}

// TestRoomOfManyWriters: they never get into the reserve together, and get all that is above it.
func TestRoomOfManyWriters(t *testing.T) {
	const reserve, above, size = 64 * mib, 256 * mib, 96 << 10
	d, r := newDisk(1<<40, reserve+above, reserve)
	var least atomic.Int64
	least.Store(math.MaxInt64)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for r.take(size) {
				free := d.free.Add(-size)
				for old := least.Load(); free < old && !least.CompareAndSwap(old, free); old = least.Load() {
				}
				r.give(size)
			}
		})
	}
	writers.Wait()
	if got := least.Load(); got < reserve || got > reserve+16*size {
		t.Errorf("%d bytes are left, the reserve is %d", got, reserve)
	}
	if r.flying.Load() != 0 {
		t.Errorf("%d bytes are in flight for ever", r.flying.Load())
	}
}

// TestRoomWithoutHoles: where a file system has none, what lies before a write or a new end takes room.
func TestRoomWithoutHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for dense, want := range map[bool]error{false: nil, true: unix.ENOSPC} {
		_, r := newDisk(1<<40, 1<<31, 0)
		r.dense = dense
		tree := &Tree{opts: Options{Log: slog.New(slog.DiscardHandler)}}
		h := &handle{fd: int(f.Fd()), export: &export{room: r}}
		for what, n := range map[string]int64{"far": h.reaching(1<<40, 1), "at the end of numbers": h.reaching(math.MaxInt64, 1)} {
			if err := tree.within(h.export, n, func() error { return nil }); !errors.Is(err, want) {
				t.Errorf("%s, dense %v: %v", what, dense, err)
			}
		}
		if n := h.reaching(0, 1); n != 1 {
			t.Errorf("a write at the beginning takes %d", n)
		}
		if err := tree.resize(h.export, h.fd, 1<<40); !errors.Is(err, want) {
			t.Errorf("larger, dense %v: %v", dense, err)
		}
		if err := tree.resize(h.export, h.fd, 0); err != nil {
			t.Errorf("smaller: %v", err)
		}
	}
}

func TestRoomTellsNowAndThen(t *testing.T) {
	_, r := newDisk(1<<30, 0, 0)
	now := time.Now()
	for i := range 25 {
		if _, ok := r.tell(now); ok != (i == 0) {
			t.Errorf("refusal %d: told %v", i, ok)
		}
	}
	if leftOut, ok := r.tell(now.Add(retell)); !ok || leftOut != 24 {
		t.Errorf("later: %v, %d left out", ok, leftOut)
	}
}

func BenchmarkRoom(b *testing.B) {
	_, r := newDisk(1<<40, 1<<39, 0)
	for b.Loop() {
		r.take(4096)
		r.give(4096)
	}
}
