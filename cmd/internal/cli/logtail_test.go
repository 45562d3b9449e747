package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	tail := &logTail{kind: "boot", path: path}
	defer tail.Close()
	var got []string
	collect := func(_, line string) error { got = append(got, line); return nil }
	expect := func(step string, want ...string) {
		t.Helper()
		got = nil
		if err := tail.drain(collect); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if !cmp.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", step, got, want)
		}
	}
	put := func(flags int, text string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o600)
		if err == nil {
			_, err = file.WriteString(text)
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("missing")
	put(os.O_APPEND, "one\ntw")
	expect("half a line", "one\n")
	put(os.O_APPEND, "o\nthree\n")
	expect("its other half", "two\n", "three\n")
	put(os.O_TRUNC, "new\n")
	expect("cut to nothing", "new\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	expect("moved away")
	put(os.O_APPEND, "rotated\nend")
	expect("a new file", "rotated\n")
	got = nil
	if err := tail.flush(collect); err != nil || !cmp.Equal(got, []string{"end"}) {
		t.Errorf("flush: %q %v", got, err)
	}
	long := strings.Repeat("x", 2*maxLogLine)
	put(os.O_APPEND, long)
	expect("a line without end", long[:maxLogLine], long[maxLogLine:])
}

func TestLogTailOfOnePart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("kernel\r\nus: one\r\n us: no\nus: two"), 0o600); err != nil {
		t.Fatal(err)
	}
	tail := &logTail{kind: "agent", path: path, prefix: "us: "}
	defer tail.Close()
	var got []string
	collect := func(_, line string) error { got = append(got, line); return nil }
	if err := errors.Join(tail.drain(collect), tail.flush(collect)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"us: one\r\n", "us: two"}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}
