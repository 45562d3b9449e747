package journal

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHeld: a file that is open twice is one file to both, whoever looks at it, and the host's user is a third.
func TestHeld(t *testing.T) {
	w, err := Open(t.TempDir(), Limits{}, "up", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	src, at := Source{FD: int(file.Fd())}, Place{"work", "f"}
	var one, two Held
	owned := func(want bool) {
		t.Helper()
		for i, held := range []*Held{&one, &two} {
			if _, own := w.Own(src, held); own != want {
				t.Errorf("%d: the guest's: %t", i+1, own)
			}
		}
	}
	write := func() { // each makes another state, however coarse the clock is: the size
		if _, err := file.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	guest := func(held *Held) {
		t.Helper()
		checkpoint, _ := w.Own(src, held)
		if err := w.Before(at, src); err != nil {
			t.Fatal(err)
		}
		write()
		w.Wrote(src, held, checkpoint)
	}

	owned(false)
	guest(&one)
	owned(true)
	guest(&two)
	owned(true)
	write() // by the host's user
	owned(false)
	guest(&one)
	owned(true)
	var st unix.Stat_t
	if err := unix.Fstat(src.FD, &st); err != nil {
		t.Fatal(err)
	}
	write() // by the host's user, before the guest's work is told
	w.Closed(at, &st)
	owned(false)
	w.After(at, src)
	owned(true)
	if _, err := w.Checkpoint("another"); err != nil {
		t.Fatal(err)
	}
	owned(false)
	guest(&two)
	owned(true)
}
