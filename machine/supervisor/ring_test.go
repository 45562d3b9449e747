package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A guest that floods its console fills two files and no more memory than the end of them.
func TestW61_FloodOfALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	const limit = 64 << 10
	r, err := openRing(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	line := bytes.Repeat([]byte("x"), 1000)
	for range 1000 {
		if _, err := r.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Write([]byte("the last words\n")); err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if sum > 2*limit {
		t.Errorf("%d bytes are kept", sum)
	}
	if !strings.Contains(r.last(), "the last words") || cap(r.tail) > limit {
		t.Errorf("the end is %q in %d bytes", r.last(), cap(r.tail))
	}
}
