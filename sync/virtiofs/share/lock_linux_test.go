package share

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lock that nobody holds any more does not stop the guest for ever.
func TestLockThatWasLeft(t *testing.T) {
	tree := &Tree{byKey: map[key]*node{}}
	for age, want := range map[time.Duration]bool{0: true, staleLock / 2: true, 2 * staleLock: false} {
		st := &unix.Stat_t{Ino: 1, Ctim: unix.NsecToTimespec(time.Now().Add(-age).UnixNano())}
		if got := tree.others(&export{}, st); got != want {
			t.Errorf("%v old: another's %v, want %v", age, got, want)
		}
	}
}
