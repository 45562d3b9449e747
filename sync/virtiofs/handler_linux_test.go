package virtiofs

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// request is one as the guest's kernel would make it.
func request(opcode uint32, node uint64, body ...[]byte) []byte {
	b := make([]byte, inHeaderSize)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], 7)
	binary.NativeEndian.PutUint64(b[16:], node)
	return b
}

// FuzzHandle gives the server requests of any kind and shape: none may bring it down, write
// more than there is room for, or reach the file beside the export.
func FuzzHandle(f *testing.F) {
	const work, file = 2, 3 // the export, and what is looked up first
	seeds := [][]byte{
		request(1, work, name("f")), request(2, file, pack(1)), request(3, file, pack(0, 0)), request(4, file, make([]byte, 88)),
		request(6, work, name("l", "../canary")), request(8, work, words(unix.S_IFIFO|0o644, 0, 0, 0), name("n")),
		request(9, work, words(0o755, 0), name("d")), request(10, work, name("f")), request(12, work, pack(work), name("f", "g")),
		request(13, work, pack(file), name("h")), request(14, file, words(unix.O_RDWR, 0)), request(15, file, pack(4, 0), words(100, 0), pack(0, 0)),
		request(16, file, pack(4, 0), words(3, 0), pack(0, 0), []byte("abc")), request(17, 1), request(21, file, words(1, 0), name("user.a"), []byte("v")),
		request(22, file, words(64, 0), name("user.a")), request(23, file, words(64, 0)), request(27, work, words(0, 0)),
		request(28, work, pack(4, 0), words(4096, 0), pack(0, 0)), request(35, work, words(unix.O_RDWR, 0o644, 0, 0), name("c")),
		request(39, file, make([]byte, 32)), request(42, 0, words(1, 0), pack(file, 1)), request(43, file, pack(4, 0, 10), words(0, 0)),
		request(44, work, pack(4, 0), words(4096, 0), pack(0, 0)), request(45, work, pack(work), words(1, 0), name("f", "g")),
		request(46, file, pack(4, 0), words(3, 0)), request(47, file, pack(4, 0, file, 4, 0, 10, 0)), request(52, work, make([]byte, 24)),
	}
	for _, s := range seeds {
		f.Add(s, uint16(40), uint16(16), uint16(5000))
	}
	top := f.TempDir()
	canary := filepath.Join(top, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent []byte, split, outSplit, room uint16) {
		dir, err := os.MkdirTemp(top, "work")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := open(Config{Exports: []Export{{Name: "w", Path: dir}}}, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		h := newHandler(tree)
		plain := func(b []byte) { h.Handle([][]byte{b}, [][]byte{make([]byte, 5000)}) }
		plain(request(26, 0, words(7, 38, 1<<20, ^uint32(0), 0), make([]byte, 44)))
		plain(request(1, work, name("f")))
		plain(request(14, file, words(unix.O_RDWR, 0)))
		out := make([]byte, room)
		cut, outCut := min(int(split), len(sent)), min(outSplit, room)
		if n := h.Handle([][]byte{sent[:cut], sent[cut:]}, [][]byte{out[:outCut], out[outCut:]}); n > int(room) {
			t.Errorf("%d bytes written in room for %d", n, room)
		}
		if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
			t.Errorf("the file outside: %q, %v", b, err)
		}
	})
}

// TestPrivate: however a request lies in the guest's memory, all of it arrives, and what is decided upon is not there any more.
func TestPrivate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opcode := rapid.SampledFrom([]uint32{1, opWrite}).Draw(t, "opcode")
		body := bytes.Repeat([]byte("0123456789a"), rapid.IntRange(0, 300).Draw(t, "body"))
		whole := request(opcode, 1, body)
		want, left := slices.Clone(whole), whole
		var in [][]byte
		for len(left) > 0 {
			first := 1
			if len(in) == 0 {
				first = 8 // which tells the kind
			}
			n := rapid.IntRange(first, len(left)).Draw(t, "piece")
			in, left = append(in, left[:n]), left[n:]
		}
		got, ok := private(in)
		if !ok || !bytes.Equal(bytes.Join(got, nil), want) {
			t.Fatalf("%t: %d bytes of %d", ok, len(bytes.Join(got, nil)), len(want))
		}
		decided := len(want)
		if opcode == opWrite {
			decided = min(decided, writeInSize)
		}
		clear(whole)
		if !bytes.Equal(got[0], want[:decided]) {
			t.Error("the guest changed what was copied")
		}
	})
}
