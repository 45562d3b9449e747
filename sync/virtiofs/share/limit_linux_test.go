package share

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1000, 0)
	told := 0
	for range 25 {
		if _, ok := l.allow(now); ok {
			told++
		}
	}
	if told != linesPerSecond {
		t.Errorf("%d lines in a second", told)
	}
	if leftOut, ok := l.allow(now.Add(time.Second)); !ok || leftOut != 15 {
		t.Errorf("a second later: %v, %d left out", ok, leftOut)
	}
}
