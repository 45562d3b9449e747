package vhostuser

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxRegions of one memory table: VHOST_MEMORY_BASELINE_NREGIONS.
const maxRegions = 8

// region is one piece of the guest's memory. Its ends never overflow: newMemory checks.
type region struct {
	guest, user, size uint64 // guest's physical and QEMU's virtual address of its start
	data              []byte
}

// memory is one table of the guest's memory. It is immutable and counted: the
// session and each request in flight hold it.
type memory struct {
	regions  []region
	mappings [][]byte
	holders  atomic.Int64
}

// regionInfo is a region as SET_MEM_TABLE carries it.
type regionInfo struct{ Guest, Size, User, Offset uint64 }

// newMemory maps the regions. The descriptors stay the caller's.
func newMemory(infos []regionInfo, fds []int) (*memory, error) {
	if len(infos) != len(fds) || len(infos) > maxRegions {
		return nil, fmt.Errorf("memory table of %d regions with %d descriptors", len(infos), len(fds))
	}
	m := &memory{}
	m.holders.Store(1)
	for i, info := range infos {
		if err := m.add(info, fds[i]); err != nil {
			m.release()
			return nil, fmt.Errorf("memory region %d: %w", i, err)
		}
	}
	return m, nil
}

func (m *memory) add(info regionInfo, fd int) error {
	const limit = 1 << 46 // far above any guest, far below overflow
	if info.Size == 0 || info.Size > limit || info.Offset > limit || info.Guest > 1<<60 || info.User+info.Size < info.User {
		return fmt.Errorf("impossible bounds %+v", info)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if uint64(st.Size) < info.Offset+info.Size { // beyond the end a touch is SIGBUS
		return fmt.Errorf("reaches %d in a file of %d bytes", info.Offset+info.Size, st.Size)
	}
	raw, err := unix.Mmap(fd, 0, int(info.Offset+info.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	m.mappings = append(m.mappings, raw)
	m.regions = append(m.regions, region{guest: info.Guest, user: info.User, size: info.Size, data: raw[info.Offset:]})
	return nil
}

func (m *memory) hold() { m.holders.Add(1) }

func (m *memory) release() {
	if m.holders.Add(-1) > 0 {
		return
	}
	for _, raw := range m.mappings {
		_ = unix.Munmap(raw) // fails only for what was not mapped
	}
}

var errOutside = errors.New("outside the guest's memory")

// guest appends the slices that hold n bytes at a physical address: more than one
// where regions meet.
func (m *memory) guest(to [][]byte, addr uint64, n uint32) ([][]byte, error) {
	for n > 0 {
		r := m.find(addr)
		if r == nil {
			return nil, fmt.Errorf("%#x: %w", addr, errOutside)
		}
		off := addr - r.guest
		part := min(uint64(n), r.size-off)
		to = append(to, r.data[off:off+part:off+part])
		addr, n = addr+part, n-uint32(part)
	}
	return to, nil
}

func (m *memory) find(addr uint64) *region {
	for i := range m.regions {
		if r := &m.regions[i]; addr >= r.guest && addr-r.guest < r.size {
			return r
		}
	}
	return nil
}

// user is n bytes at an address of QEMU's own, which rings are named by; they lie in
// one region.
func (m *memory) user(addr, n uint64) ([]byte, error) {
	for _, r := range m.regions {
		if addr >= r.user && addr-r.user < r.size && n <= r.size-(addr-r.user) {
			off := addr - r.user
			return r.data[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("ring at %#x, %d bytes: %w", addr, n, errOutside)
}
