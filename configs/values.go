package configs

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// Size is a number of bytes, written with a unit: 4GiB.
type Size machine.Bytes

const sizePattern = "^[1-9][0-9]*(MiB|GiB|TiB)$"

// UnmarshalText reads a whole number and a binary unit.
func (s *Size) UnmarshalText(text []byte) error {
	units := map[string]machine.Bytes{"MiB": machine.MiB, "GiB": machine.GiB, "TiB": 1024 * machine.GiB}
	digits := strings.TrimRight(string(text), "MGTiB")
	unit, known := units[string(text)[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !known || err != nil || n < 1 || strconv.FormatInt(n, 10) != digits {
		return fmt.Errorf("size %q: must be a whole number with MiB, GiB or TiB, such as 4GiB", cut(string(text)))
	}
	if n > math.MaxInt64/int64(unit) {
		return fmt.Errorf("size %q: is too large", cut(string(text)))
	}
	*s = Size(n * int64(unit))
	return nil
}

// MarshalText writes the largest unit that divides the size.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Size) String() string {
	for _, u := range []struct {
		name string
		size Size
	}{{"TiB", Size(1024 * machine.GiB)}, {"GiB", Size(machine.GiB)}} {
		if s%u.size == 0 && s > 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s/Size(machine.MiB)), 10) + "MiB"
}

// Reserve is a Size that remembers where it stands. It may be 0, which needs no unit.
type Reserve struct {
	Size
	at Position // the zero Position if it is not set
}

func (r *Reserve) setPosition(at Position) { r.at = at }

// UnmarshalText takes what Size does, and 0.
func (r *Reserve) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		return nil
	}
	return r.Size.UnmarshalText(text)
}

func (*Reserve) takesZero() {}

func (r Reserve) set() bool { return r.at != Position{} }

// Port publishes a port of the guest: "3000" (the same port on 127.0.0.1),
// "8080:80" (host:guest), "127.0.0.1:8080:80", "[::1]:8080:80". Host port 0 takes
// any free one.
type Port struct {
	machine.Port
	at Position
}

const portPattern = `^((([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9a-fA-F:]+\]):)?([0-9]{1,5}:)?[1-9][0-9]{0,4}$`

func (p *Port) setPosition(at Position) { p.at = at }

// UnmarshalText reads one of the forms.
func (p *Port) UnmarshalText(text []byte) error {
	parsed, err := ParsePort(string(text))
	if err != nil {
		return err
	}
	p.Port = parsed
	return nil
}

// ParsePort reads the forms of [Port]; `sbx port add` takes them too.
func ParsePort(text string) (machine.Port, error) {
	host, rest := "127.0.0.1", text
	if i := strings.LastIndex(text, ":"); i >= 0 {
		if j := strings.LastIndex(text[:i], ":"); j >= 0 {
			addr, err := parseListen(text[:j])
			if err != nil {
				return machine.Port{}, fmt.Errorf("port %q: %w", cut(text), err)
			}
			host, rest = addr, text[j+1:]
		}
	}
	outer, inner, two := strings.Cut(rest, ":")
	if !two {
		inner = outer
	}
	hostPort, err1 := portNumber(outer)
	guestPort, err2 := portNumber(inner)
	if err := errors.Join(err1, err2); err != nil || guestPort == 0 {
		return machine.Port{}, fmt.Errorf(`port %q: must be "3000", "8080:80" or "127.0.0.1:8080:80", with ports up to 65535`, cut(text))
	}
	return machine.Port{Host: host, Port: hostPort, Guest: guestPort}, nil
}

func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && strconv.FormatUint(n, 10) != s {
		err = strconv.ErrSyntax
	}
	return uint16(n), err
}

func parseListen(s string) (string, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil || addr.Zone() != "" || addr.Is6() == (bare == s) {
		return "", fmt.Errorf("address %q: must be a literal address of the host, such as 127.0.0.1 or [::1]", s)
	}
	return addr.String(), nil
}

// Duration is a time with a unit: 30s, 2m.
type Duration time.Duration

const durationPattern = "^[0-9]+(ms|s|m)([0-9]+(ms|s))?$"

// UnmarshalText reads what Go reads, up to what a connection may wait.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed < 0 || parsed > netfilter.MaxAsk {
		return fmt.Errorf("time %q: must have a unit and be at most %s, such as 30s", cut(string(text)), netfilter.MaxAsk)
	}
	*d = Duration(parsed)
	return nil
}

// Text is a text that remembers where it stands.
type Text struct {
	Text string
	at   Position
}

func (t *Text) setPosition(at Position) { t.at = at }

// UnmarshalText takes any text.
func (t *Text) UnmarshalText(text []byte) error {
	t.Text = string(text)
	return nil
}

// Toggle is a boolean that can come from a file, a variable or a flag.
type Toggle bool

// UnmarshalText takes true and false alone.
func (t *Toggle) UnmarshalText(text []byte) error {
	switch string(text) {
	case "true":
		*t = true
	case "false":
		*t = false
	default:
		return fmt.Errorf("%q: must be true or false", cut(string(text)))
	}
	return nil
}

// Count is a number of things, from 1 to 256.
type Count int

// UnmarshalText takes plain decimal.
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 256 || strconv.Itoa(n) != string(text) {
		return fmt.Errorf("%q: must be a number from 1 to 256", cut(string(text)))
	}
	*c = Count(n)
	return nil
}
