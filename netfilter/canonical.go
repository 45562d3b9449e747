package netfilter

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/idna"
)

// Limits of RFC 1035 section 2.3.4, in the dotted form.
const (
	maxName  = 253
	maxLabel = 63
)

// Canonical gives the one form in which names are compared: lower case, A-labels,
// no trailing dot. It is for names that arrive from a guest, so it maps nothing
// but ASCII case: what another party might map differently (full-width letters,
// ideographic dots, U-labels) is an error, and so is everything that a resolver
// might take for an address (127.1, 0x7f000001).
func Canonical(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return "", fmt.Errorf("name of %d bytes: must be 1 to %d", len(name), maxName)
	}
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("name %q: %w", name, err)
		}
	}
	if numericEnd(name) {
		return "", fmt.Errorf("name %q: is an address, not a name", name)
	}
	return lowerASCII(name), nil
}

// checkLabel holds a label to letters, digits and inner hyphens (RFC 1123
// section 2.1). The underscore of service records is no part of a host name.
func checkLabel(label string) error {
	if label == "" {
		return errors.New("has an empty label")
	}
	if len(label) > maxLabel {
		return fmt.Errorf("has a label of %d bytes, more than %d", len(label), maxLabel)
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("has a label that begins or ends with a hyphen")
	}
	for i := range len(label) {
		if c := label[i]; !isAlnum(c) && c != '-' {
			return fmt.Errorf("has the byte %q, only letters, digits and hyphens are allowed", c)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// numericEnd tells whether URL parsers and inet_aton may read the name as an
// IPv4 address: its last label is a number, decimal, octal or hexadecimal
// (WHATWG URL, "ends in a number").
func numericEnd(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if rest, ok := strings.CutPrefix(lowerASCII(last), "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Display shows a canonical name to a person: an internationalised one in both
// forms, because only the A-label tells a Cyrillic letter from its Latin twin.
func Display(name string) string {
	if !strings.Contains(name, "xn--") {
		return name
	}
	u, err := idna.Display.ToUnicode(name)
	if err != nil || u == name {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, u)
}

// localName tells whether a name has a meaning on the local network alone
// (RFC 6761, 6762, 8375, ICANN's .internal, RFC 7686, 9476): single labels, which a
// resolver would complete by its search list, and the zones of loopback, mDNS,
// private networks, Tor and others that are not of the DNS; all of arpa, where no host has its name: reverse
// lookups, home.arpa, what a network says of its resolver (RFC 9462) and its NAT64 (RFC 7050). No rule lifts it.
func localName(name string) bool {
	if !strings.Contains(name, ".") {
		return true
	}
	for _, zone := range []string{"localhost", "local", "internal", "arpa", "onion", "alt"} {
		if name == zone || strings.HasSuffix(name, "."+zone) {
			return true
		}
	}
	return false
}
