package vhostuser

import (
	"encoding/binary"
	"errors"
	"testing"
)

// testMemory is two regions that touch, and one far off.
func testMemory() *memory {
	buf := make([]byte, 0x3000)
	return &memory{regions: []region{
		{guest: 0, user: 0x7000_0000, size: 0x1000, data: buf[:0x1000]},
		{guest: 0x1000, user: 0x8000_0000, size: 0x1000, data: buf[0x1000:0x2000]},
		{guest: 1 << 40, user: 0x9000_0000, size: 0x1000, data: buf[0x2000:]},
	}}
}

func table(descs ...desc) []byte {
	var b []byte
	for _, d := range descs {
		b = binary.LittleEndian.AppendUint64(b, d.addr)
		b = binary.LittleEndian.AppendUint32(b, d.len)
		b = binary.LittleEndian.AppendUint16(b, d.flags)
		b = binary.LittleEndian.AppendUint16(b, d.next)
	}
	return b
}

func TestParseChain(t *testing.T) {
	m := testMemory()
	copy(m.regions[0].data[0x100:], table(desc{addr: 0x10, len: 8, flags: descNext, next: 1}, desc{addr: 0x20, len: 4, flags: descWrite}))
	copy(m.regions[0].data[0x200:], table(desc{addr: 0x100, len: 32, flags: descIndirect}))
	for name, c := range map[string]struct {
		table   []byte
		head    uint16
		in, out int
		bad     bool
	}{
		"one":                  {table: table(desc{addr: 0, len: 16}), in: 16},
		"two":                  {table: table(desc{addr: 0, len: 16, flags: descNext, next: 1}, desc{addr: 64, len: 8, flags: descWrite}), in: 16, out: 8},
		"empty descriptor":     {table: table(desc{addr: 1 << 50, len: 0})},
		"over regions":         {table: table(desc{addr: 0xff0, len: 0x20}), in: 0x20},
		"indirect":             {table: table(desc{addr: 0x100, len: 32, flags: descIndirect}), in: 8, out: 4},
		"head outside":         {table: table(desc{}), head: 1, bad: true},
		"loop":                 {table: table(desc{len: 1, flags: descNext, next: 0}), bad: true},
		"loop of two":          {table: table(desc{len: 1, flags: descNext, next: 1}, desc{len: 1, flags: descNext, next: 0}), bad: true},
		"next outside":         {table: table(desc{len: 1, flags: descNext, next: 9}), bad: true},
		"beyond the end":       {table: table(desc{addr: 0x1ff0, len: 0x20}), bad: true},
		"in a hole":            {table: table(desc{addr: 0x5000, len: 1}), bad: true},
		"address overflows":    {table: table(desc{addr: ^uint64(0), len: 16}), bad: true},
		"length 4 GiB":         {table: table(desc{addr: 0, len: ^uint32(0)}), bad: true},
		"read after write":     {table: table(desc{len: 1, flags: descNext | descWrite, next: 1}, desc{len: 1}), bad: true},
		"indirect and next":    {table: table(desc{addr: 0x100, len: 32, flags: descIndirect | descNext}), bad: true},
		"indirect odd length":  {table: table(desc{addr: 0x100, len: 30, flags: descIndirect}), bad: true},
		"indirect empty":       {table: table(desc{addr: 0x100, flags: descIndirect}), bad: true},
		"indirect outside":     {table: table(desc{addr: 1 << 50, len: 16, flags: descIndirect}), bad: true},
		"indirect in indirect": {table: table(desc{addr: 0x200, len: 16, flags: descIndirect}), bad: true},
		"indirect too long":    {table: table(desc{addr: 0, len: 16 * (maxQueueSize + 1), flags: descIndirect}), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := &chain{}
			err := got.parse(m, c.table, c.head)
			if c.bad != (err != nil) || err != nil && !errors.Is(err, errChain) {
				t.Fatalf("error %v, want one: %v", err, c.bad)
			}
			if err == nil && (length(got.in) != c.in || length(got.out) != c.out) {
				t.Errorf("%d in, %d out; want %d, %d", length(got.in), length(got.out), c.in, c.out)
			}
		})
	}
}

func length(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

func FuzzParseChain(f *testing.F) {
	f.Add(table(desc{addr: 0, len: 16, flags: descNext, next: 1}, desc{addr: 64, len: 8, flags: descWrite}), []byte{}, uint16(0))
	f.Add(table(desc{addr: 0x100, len: 32, flags: descIndirect}), table(desc{flags: descNext}), uint16(0))
	f.Fuzz(func(t *testing.T, tab, mem []byte, head uint16) {
		if len(tab) > maxQueueSize*descSize {
			return
		}
		m := testMemory()
		copy(m.regions[0].data[0x100:], mem)
		c := &chain{}
		err := c.parse(m, tab[:len(tab)/descSize*descSize], head)
		if err != nil {
			return
		}
		if uint64(length(c.in)+length(c.out)) != c.total || c.total > maxChain {
			t.Errorf("%d in, %d out of %d", length(c.in), length(c.out), c.total)
		}
	})
}

func FuzzRing(f *testing.F) {
	f.Add(make([]byte, 64), uint8(2), uint16(0))
	f.Fuzz(func(t *testing.T, content []byte, log uint8, base uint16) {
		m := testMemory()
		copy(m.regions[0].data, content)
		r, err := newRing(m, ringAddr{desc: 0x7000_0000, avail: 0x7000_0400, used: 0x7000_0800}, 1<<(log%12), base, log&16 != 0)
		if err != nil {
			return
		}
		for range 4 {
			head, ok, err := r.pop()
			if err != nil || !ok {
				return
			}
			_ = new(chain).parse(m, r.desc, head)
			r.push(head, 1)
			r.wantKick(0)
		}
	})
}
