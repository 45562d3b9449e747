package initd

import (
	"regexp"
	"testing"
)

// writes keeps what arrives at once.
type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

// TestTheLogIsToldFromOtherLinesOfTheConsole: by its first word, each record in one write.
func TestTheLogIsToldFromOtherLinesOfTheConsole(t *testing.T) {
	var console writes
	newLog(&console).Info("connection\nended", "error", "a b")
	want := regexp.MustCompile(`^sbx-guest: time=\S+ level=INFO msg="connection\\nended" error="a b"\n$`)
	if len(console) != 1 || !want.MatchString(console[0]) {
		t.Errorf("%q", console)
	}
}
