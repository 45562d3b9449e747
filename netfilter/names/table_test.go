package names

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newTable(t testing.TB, max int) (*Table, *clock) {
	t.Helper()
	c := &clock{t: time.Unix(1_700_000_000, 0)}
	table, err := New(DefaultPrefix(), max, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return table, c
}

func TestOneAddressPerName(t *testing.T) {
	table, _ := newTable(t, 10)
	a, _ := table.Assign("example.com")
	b, _ := table.Assign("example.org")
	again, _ := table.Assign("example.com")
	if a != again || a == b || !table.Contains(a) {
		t.Fatalf("addresses %v, %v, %v", a, b, again)
	}
	name, release, ok := table.Acquire(a)
	defer release()
	if !ok || name != "example.com" {
		t.Fatalf("Acquire(%v) = %q, %v", a, name, ok)
	}
}

func TestAddressSurvivesARestart(t *testing.T) {
	first, _ := newTable(t, 10)
	second, _ := newTable(t, 10)
	a, _ := first.Assign("example.com")
	second.Assign("other.example")
	if b, _ := second.Assign("example.com"); a != b {
		t.Fatalf("address changed from %v to %v", a, b)
	}
}

func TestUnknownAddressLeadsNowhere(t *testing.T) {
	table, _ := newTable(t, 10)
	if _, _, ok := table.Acquire(netip.MustParseAddr("198.18.0.7")); ok {
		t.Fatal("an address that nobody was given has a name")
	}
}

// TestSleepAndClockJumps: a host that slept, or whose clock jumped, has the same names and room for new ones.
func TestSleepAndClockJumps(t *testing.T) { t.Run("X10_sleep_and_clock_jumps", sleepAndClockJumps) }

func sleepAndClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{8 * time.Hour, -8 * time.Hour, 50 * 365 * 24 * time.Hour} {
		table, c := newTable(t, 2)
		used, _ := table.Assign("used.example")
		_, release, _ := table.Acquire(used)
		defer release()
		idle, _ := table.Assign("idle.example")
		c.t = c.t.Add(jump)
		for addr, want := range map[netip.Addr]string{used: "used.example", idle: "idle.example"} {
			name, done, ok := table.Acquire(addr)
			done()
			if !ok || name != want {
				t.Errorf("after %v: %v is %q, %v", jump, addr, name, ok)
			}
		}
		c.t = c.t.Add(8 * time.Hour)
		if _, err := table.Assign("new.example"); jump > 0 && err != nil {
			t.Errorf("after %v: %v", jump, err)
		}
		if again, err := table.Assign("used.example"); err != nil || again != used {
			t.Errorf("after %v: %v, %v", jump, again, err)
		}
	}
}

func TestFullTableKeepsWhatIsUsedOrFresh(t *testing.T) {
	table, c := newTable(t, 2)
	held, _ := table.Assign("held.example")
	_, release, _ := table.Acquire(held)
	table.Assign("fresh.example")
	if _, err := table.Assign("third.example"); !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	c.t = c.t.Add(2 * TTL)
	if _, err := table.Assign("third.example"); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Assign("fourth.example"); !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull: one name is held, one is fresh", err)
	}
	release()
	release()
	if _, err := table.Assign("fourth.example"); err != nil {
		t.Fatal(err)
	}
	if table.Len() != 2 {
		t.Fatalf("%d names, want 2", table.Len())
	}
}

func TestForget(t *testing.T) {
	table, _ := newTable(t, 10)
	gone, _ := table.Assign("gone.example")
	kept, _ := table.Assign("kept.example")
	table.Forget(func(name string) bool { return name == "kept.example" })
	if _, _, ok := table.Acquire(gone); ok {
		t.Error("a forgotten name still has its address")
	}
	if _, _, ok := table.Acquire(kept); !ok {
		t.Error("a kept name lost its address")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, prefix := range []string{"fd00::/64", "10.0.0.0/30"} {
		if _, err := New(netip.MustParsePrefix(prefix), 10, time.Now); err == nil {
			t.Errorf("New(%s) succeeded", prefix)
		}
	}
}

// TestBijection checks against any sequence of operations that two names never
// share an address and that the table never outgrows its bound.
func TestBijection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &clock{t: time.Unix(0, 0)}
		table, err := New(netip.MustParsePrefix("198.18.0.0/26"), 20, c.now)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			name := fmt.Sprintf("n%d.example", rapid.IntRange(0, 60).Draw(t, "name"))
			c.t = c.t.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
			addr, err := table.Assign(name)
			if err != nil {
				continue
			}
			got, release, ok := table.Acquire(addr)
			if !ok || got != name {
				t.Fatalf("%v was given for %q and leads to %q", addr, name, got)
			}
			if rapid.Bool().Draw(t, "close") {
				release()
			}
			if table.Len() > 20 {
				t.Fatalf("%d names", table.Len())
			}
		}
	})
}
