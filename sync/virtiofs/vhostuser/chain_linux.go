package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

const (
	descSize     = 16
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	// maxQueueSize is QEMU's VIRTQUEUE_MAX_SIZE; no chain has more descriptors, indirect or not.
	maxQueueSize = 1024
	// maxChain bounds the bytes of one request, both ways together: 1 MiB of data and headers, with room.
	maxChain = 4 << 20
)

// chain is one request: what the device may read, and where it may write.
type chain struct {
	in, out [][]byte
	total   uint64
	count   int

	// Memory for most requests.
	table [16 * descSize]byte
	parts [16][]byte
}

// chains are those that are not in use. Its zero value is ready.
type chains struct{ sync.Pool }

// take gives one for a request. Its user puts it back.
func (p *chains) take() *chain {
	if c, ok := p.Get().(*chain); ok {
		return c
	}
	return &chain{}
}

// put lets go of the guest's memory. Nothing of the chain may be used after it.
func (p *chains) put(c *chain) {
	c.in, c.out = nil, nil
	clear(c.parts[:])
	p.Put(c)
}

var errChain = errors.New("bad descriptor chain")

type desc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// readDesc copies descriptor i of a table, so that the guest cannot change it between
// check and use. The table holds more than i.
func readDesc(table []byte, i uint16) desc {
	var b [descSize]byte
	copy(b[:], table[int(i)*descSize:])
	return desc{
		addr: binary.LittleEndian.Uint64(b[0:]), len: binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]), next: binary.LittleEndian.Uint16(b[14:]),
	}
}

// parse follows the chain from head in a table of whole descriptors. Loops,
// chains longer than the table, nested tables, reads after writes and bytes outside
// the guest's memory are errors.
func (c *chain) parse(m *memory, table []byte, head uint16) error {
	if int(head) >= len(table)/descSize {
		return fmt.Errorf("%w: head %d of %d", errChain, head, len(table)/descSize)
	}
	half := len(c.parts) / 2
	c.in, c.out, c.total, c.count = c.parts[:0:half], c.parts[half:half], 0, 0
	if d := readDesc(table, head); d.flags&descIndirect != 0 {
		indirect, err := c.indirectTable(m, d)
		if err != nil {
			return err
		}
		return c.follow(m, indirect, 0)
	}
	return c.follow(m, table, head)
}

// indirectTable copies the table that a descriptor points to.
func (c *chain) indirectTable(m *memory, d desc) ([]byte, error) {
	if d.flags&(descNext|descWrite) != 0 || d.len == 0 || d.len%descSize != 0 || d.len > maxQueueSize*descSize {
		return nil, fmt.Errorf("%w: indirect table of %d bytes, flags %#x", errChain, d.len, d.flags)
	}
	parts, err := m.guest(c.in, d.addr, d.len) // where its parts will be: there are none yet
	if err != nil {
		return nil, fmt.Errorf("%w: indirect table: %w", errChain, err)
	}
	table := c.table[:0]
	if int(d.len) > len(c.table) {
		table = make([]byte, 0, d.len)
	}
	for _, p := range parts {
		table = append(table, p...)
	}
	return table, nil
}

func (c *chain) follow(m *memory, table []byte, i uint16) error {
	size := len(table) / descSize
	for {
		if int(i) >= size || c.count >= size {
			return fmt.Errorf("%w: descriptor %d, the %dth of %d", errChain, i, c.count, size)
		}
		d := readDesc(table, i)
		if d.flags&descIndirect != 0 {
			return fmt.Errorf("%w: nested indirect table", errChain)
		}
		if err := c.add(m, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = d.next
	}
}

func (c *chain) add(m *memory, d desc) error {
	c.count++
	c.total += uint64(d.len)
	if c.total > maxChain {
		return fmt.Errorf("%w: over %d bytes", errChain, maxChain)
	}
	var err error
	switch {
	case d.flags&descWrite != 0:
		c.out, err = m.guest(c.out, d.addr, d.len)
	case len(c.out) > 0:
		return fmt.Errorf("%w: readable after writable", errChain)
	default:
		c.in, err = m.guest(c.in, d.addr, d.len)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errChain, err)
	}
	return nil
}
