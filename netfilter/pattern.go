package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// maxPattern bounds the text of a rule: a longest name, a star and its ports.
const maxPattern = 512

var errLocal = errors.New("is local, no rule reaches it")

// kind of a pattern, in the order of specificity over the same base.
type kind int

const (
	kindAny   kind = iota // **    every name
	kindBelow             // **.x  x and every name below it
	kindChild             // *.x   exactly one label before x
	kindExact             // x
	kindRange             // 192.0.2.0/24, for literal addresses; of no name
)

// pattern is a parsed Rule.Pattern. base is canonical, empty for kindAny.
type pattern struct {
	kind   kind
	base   string
	prefix netip.Prefix // of kindRange alone
	ports  []portRange  // nil when the text names none
}

// parsePattern reads "api.example.com", "*.example.org:443,8443",
// "**.example.net", "github.com:22/tcp". How wide a pattern is allowed to be is
// not its business, see checkWidth.
func parsePattern(text string) (pattern, error) {
	if len(text) > maxPattern {
		return pattern{}, fmt.Errorf("pattern of %d bytes, more than %d", len(text), maxPattern)
	}
	if p, ok, err := parseRangePattern(text); ok || err != nil {
		return p, err
	}
	if err := refuseForeign(text); err != nil {
		return pattern{}, err
	}
	host, ports, hasPorts := strings.Cut(text, ":")
	p, err := parseHost(host)
	if err != nil {
		return pattern{}, err
	}
	if hasPorts {
		if p.ports, err = parsePorts(ports); err != nil {
			return pattern{}, err
		}
	}
	return p, nil
}

// CanonicalPattern gives the form of a pattern in which it is compared and shown to people: its name in lower
// case and A-labels, its ports as they stand. What is no pattern comes back as it is, for the error about it.
func CanonicalPattern(text string) string {
	p, err := parsePattern(text)
	if err != nil || p.kind == kindRange || p.kind == kindAny {
		return text
	}
	_, ports, hasPorts := strings.Cut(text, ":")
	stars := map[kind]string{kindBelow: "**.", kindChild: "*."}[p.kind]
	if hasPorts {
		ports = ":" + ports
	}
	return stars + p.base + ports
}

// refuseForeign gives the mistakes that people make a better message than a
// complaint about one byte: URLs, addresses, ranges of addresses.
func refuseForeign(text string) error {
	if text == "" {
		return errors.New("pattern is empty")
	}
	if strings.Contains(text, "://") {
		return errors.New("is a URL: write the host name alone, such as api.example.com:443")
	}
	if isAddress(text) {
		return errors.New("is an address: rules take names, and ranges of IPv4 addresses such as 140.82.112.0/20:22/tcp")
	}
	return nil
}

// parseRangePattern reads "140.82.112.0/20:22/tcp" and "140.82.112.3:22/tcp": IPv4 in full, because the
// guest has nothing else.
func parseRangePattern(text string) (p pattern, ok bool, err error) {
	host, ports, hasPorts := strings.Cut(text, ":")
	prefix, isPrefix := prefixOf(host)
	switch {
	case !isPrefix:
		return p, false, nil
	case !prefix.Addr().Is4():
		return p, false, errors.New("is an IPv6 address, and guests have IPv4 alone")
	case prefix.Masked() != prefix:
		return p, false, fmt.Errorf("range %q: write %s", host, prefix.Masked())
	}
	p = pattern{kind: kindRange, prefix: prefix}
	if hasPorts {
		p.ports, err = parsePorts(ports)
	}
	return p, err == nil, err
}

// prefixOf reads a range, or an address as a range of one.
func prefixOf(s string) (netip.Prefix, bool) {
	if prefix, err := netip.ParsePrefix(s); err == nil {
		return prefix, true
	}
	addr, err := netip.ParseAddr(s)
	return netip.PrefixFrom(addr, addr.BitLen()), err == nil
}

// isAddress finds 1.2.3.4, 1.2.3.4:443, 10.0.0.0/8, ::1, [::1]:443, 127.1, 0x7f000001.
func isAddress(text string) bool {
	if strings.HasPrefix(text, "[") || strings.Count(text, ":") > 1 {
		return true
	}
	host, _, _ := strings.Cut(text, ":")
	if addr, _, ranged := strings.Cut(host, "/"); ranged {
		_, err := netip.ParseAddr(addr)
		return err == nil
	}
	return host != "" && strings.Trim(host, ".") != "" && numericEnd(strings.TrimSuffix(host, "."))
}

func parseHost(host string) (pattern, error) {
	if host == "**" {
		return pattern{kind: kindAny}, nil
	}
	k, base := kindExact, host
	if rest, ok := strings.CutPrefix(host, "**."); ok {
		k, base = kindBelow, rest
	} else if rest, ok := strings.CutPrefix(host, "*."); ok {
		k, base = kindChild, rest
	}
	if err := refuseStars(host, base); err != nil {
		return pattern{}, err
	}
	name, err := canonicalBase(base)
	if err != nil {
		return pattern{}, err
	}
	if k == kindExact && localName(name) || k != kindExact && name != "" && localZone(name) {
		return pattern{}, fmt.Errorf("name %q: %w", name, errLocal)
	}
	return pattern{kind: k, base: name}, nil
}

func refuseStars(host, base string) error {
	switch {
	case host == "*":
		return errors.New(`"*" names no domain: write *.example.com or **.example.com`)
	case strings.Contains(base, "*"):
		return errors.New("a star stands only as *. or **. before a whole name, such as *.example.com")
	case strings.HasPrefix(base, "."):
		return errors.New("begins with a dot: write **.example.com for a name and all below it")
	case strings.ContainsAny(base, "/?#@"):
		return errors.New("holds more than a host name: write the host name alone, such as api.example.com:443")
	}
	return nil
}

// localZone is localName for the base of a wildcard, where a single label is
// a question of width ("*.com"), not of locality.
func localZone(base string) bool { return localName("x." + base) }

// canonicalBase converts the U-labels of a rule, once, here. The registration
// profile maps nothing: a rule with a full-width letter is a mistake or a trick.
func canonicalBase(base string) (string, error) {
	labels := strings.Split(base, ".")
	for i, label := range labels {
		if isASCII(label) {
			continue
		}
		a, err := idna.Registration.ToASCII(strings.ToLower(label))
		if err != nil {
			return "", fmt.Errorf("name %q: is no valid international name: %w", base, err)
		}
		labels[i] = a
	}
	return Canonical(strings.Join(labels, "."))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// matches tells whether a canonical name falls under the pattern.
func (p pattern) matches(name string) bool {
	switch p.kind {
	case kindAny:
		return true
	case kindRange:
		return false
	case kindExact:
		return name == p.base
	case kindChild:
		_, parent, ok := strings.Cut(name, ".")
		return ok && parent == p.base
	default:
		return name == p.base || strings.HasSuffix(name, "."+p.base)
	}
}

// specificity orders the patterns that match one name: the longer base first,
// over the same base the narrower kind.
func (p pattern) specificity() int {
	switch p.kind {
	case kindAny:
		return 0
	case kindRange:
		return p.prefix.Bits()
	}
	return (strings.Count(p.base, ".")+1)*8 + int(p.kind)
}
