package virtiofs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/journal"
)

// called is a handler without a machine: what a request costs the file server itself.
type called struct {
	b   *testing.B
	h   *handler
	out []byte // the last answer's place
}

func newCalled(b *testing.B, kept bool) called {
	b.Helper()
	cfg := Config{Exports: []Export{{Name: "w", Path: b.TempDir()}}, GuestUID: 1000, GuestGID: 1000}
	var writer *journal.Writer
	if kept {
		var err error
		if writer, err = journal.Open(b.TempDir(), journal.Limits{}, "bench", discard()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { writer.Close() })
	}
	tree, err := open(cfg, writer, discard())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(tree.Close)
	for i := range 100 {
		os.WriteFile(filepath.Join(cfg.Exports[0].Path, fmt.Sprint("old", i)), make([]byte, 1000), 0o644)
	}
	c := called{b, newHandler(tree), make([]byte, 8192)}
	c.do(request(26, 0, words(7, 38, 1<<20, ^uint32(0), 0), make([]byte, 44)))
	return c
}

func (c called) do(request []byte) []byte {
	n := c.h.Handle([][]byte{request}, [][]byte{c.out})
	if n >= 8 && int32(binary.NativeEndian.Uint32(c.out[4:])) != 0 {
		c.b.Fatalf("opcode %d: %d", binary.NativeEndian.Uint32(request[4:]), int32(binary.NativeEndian.Uint32(c.out[4:])))
	}
	return c.out
}

// BenchmarkHandle is the work of whole operations of a program, request by request.
func BenchmarkHandle(b *testing.B) {
	const work = 2
	for _, kept := range []bool{false, true} {
		b.Run(fmt.Sprintf("create/journal=%v", kept), func(b *testing.B) {
			c, content := newCalled(b, kept), make([]byte, 1000)
			for i := 0; b.Loop(); i++ {
				n := fmt.Sprint("f", i)
				out := c.do(request(35, work, words(unix.O_WRONLY, 0o644, 0, 0), name(n)))
				node, fh := binary.NativeEndian.Uint64(out[16:]), binary.NativeEndian.Uint64(out[16+128:])
				c.do(request(16, node, pack(fh, 0), words(1000, 0), pack(0), words(unix.O_WRONLY, 0), content))
				c.do(request(18, node, pack(fh), words(0, 0), pack(0)))
			}
		})
		b.Run(fmt.Sprintf("delete/journal=%v", kept), func(b *testing.B) {
			c := newCalled(b, kept)
			for i := 0; b.Loop(); i++ {
				n := fmt.Sprint("f", i)
				out := c.do(request(35, work, words(unix.O_WRONLY, 0o644, 0, 0), name(n)))
				node, fh := binary.NativeEndian.Uint64(out[16:]), binary.NativeEndian.Uint64(out[16+128:])
				c.do(request(18, node, pack(fh), words(0, 0), pack(0)))
				c.do(request(10, work, name(n)))
				c.do(request(2, node, pack(1)))
			}
		})
		b.Run(fmt.Sprintf("read/journal=%v", kept), func(b *testing.B) {
			c := newCalled(b, kept)
			for i := 0; b.Loop(); i++ {
				out := c.do(request(1, work, name(fmt.Sprint("old", i%100))))
				node := binary.NativeEndian.Uint64(out[16:])
				out = c.do(request(14, node, words(unix.O_RDONLY, 0)))
				fh := binary.NativeEndian.Uint64(out[16:])
				c.do(request(15, node, pack(fh, 0), words(4096, 0), pack(0), words(0, 0)))
				c.do(request(18, node, pack(fh), words(0, 0), pack(0)))
			}
		})
		b.Run(fmt.Sprintf("write/journal=%v", kept), func(b *testing.B) {
			c, content := newCalled(b, kept), make([]byte, 4096)
			out := c.do(request(35, work, words(unix.O_RDWR, 0o644, 0, 0), name("random")))
			node, fh := binary.NativeEndian.Uint64(out[16:]), binary.NativeEndian.Uint64(out[16+128:])
			ask := request(16, node, pack(fh, 0), words(4096, 0), pack(0), words(unix.O_RDWR, 0), content)
			for i := 0; b.Loop(); i++ {
				binary.NativeEndian.PutUint64(ask[inHeaderSize+8:], uint64(i)*7919%4096*4096)
				c.do(ask)
			}
		})
		b.Run(fmt.Sprintf("lookup/journal=%v", kept), func(b *testing.B) {
			c := newCalled(b, kept)
			asks := make([][]byte, 100)
			for i := range asks {
				asks[i] = request(1, work, name(fmt.Sprint("old", i)))
			}
			for i := 0; b.Loop(); i++ {
				c.do(asks[i%len(asks)])
			}
		})
	}
}
