package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// floorClasses are what no rule of anybody's leads to.
func floorClasses() []Class {
	return []Class{ClassInvalid, ClassUnspecified, ClassLinkLocal, ClassMetadata, ClassMulticast, ClassReserved, ClassBenchmark, ClassEmbedded}
}

// Allows tells whether an address of a name's answer may be dialled because of the target.
func (t Target) Allows(addr netip.Addr) bool {
	return t.Prefix.IsValid() && t.Prefix.Contains(addr) && !slices.Contains(floorClasses(), Classify(addr))
}

// compileHost turns a HostRule into the rule that it is, with its target.
func compileHost(h HostRule) (compiled, error) {
	r := Rule{Action: Allow, Pattern: h.Pattern, Origin: h.Origin}
	if r.Origin.Source == "" {
		r.Origin.Source = "user" // nobody else has such rules
	}
	pat, err := parseHostPattern(h.Pattern)
	if err != nil {
		return compiled{}, &RuleError{r, err}
	}
	c := compiled{rule: r, pat: pat, ports: pat.ports}
	if c.ports == nil {
		c.ports = webPorts()
	}
	if pat.kind == kindRange && h.To == "" {
		c.target = Target{Prefix: pat.prefix}
		err = checkHostRange(pat.prefix)
	} else {
		c.target, err = parseTarget(h.To, pat)
	}
	if err == nil && pat.kind != kindRange {
		err = checkWidth(pat, false)
	}
	if err == nil {
		err = c.checkRaw()
	}
	if err != nil {
		return compiled{}, &RuleError{r, err}
	}
	return c, nil
}

// parseHostPattern also takes the names that no other rule does: those of the local network.
func parseHostPattern(text string) (pattern, error) {
	p, err := parsePattern(text)
	if err == nil || !errors.Is(err, errLocal) {
		return p, err
	}
	host, ports, hasPorts := strings.Cut(text, ":")
	if p.kind = kindExact; strings.HasPrefix(host, "*") {
		return p, errors.New("a local name must be written whole")
	}
	if p.base, err = canonicalBase(host); err == nil && hasPorts {
		p.ports, err = parsePorts(ports)
	}
	return p, err
}

// parseTarget reads "127.0.0.1:5000", "[::1]:5000", "192.168.1.7", "10.0.0.0/8".
func parseTarget(to string, pat pattern) (Target, error) {
	if pat.kind == kindRange {
		return Target{}, errors.New("a range of addresses leads to itself: leave out where to")
	}
	if prefix, err := netip.ParsePrefix(to); err == nil {
		if prefix.Masked() != prefix {
			return Target{}, fmt.Errorf("to %q: write %s", to, prefix.Masked())
		}
		if pat.kind == kindExact && localName(pat.base) {
			return Target{}, errors.New("a local name needs an address, not a range: nobody is asked for it")
		}
		return Target{Prefix: prefix}, checkHostRange(prefix)
	}
	var t Target
	if ap, err := netip.ParseAddrPort(to); err == nil && ap.Port() != 0 {
		t = Target{Addr: ap.Addr(), Port: ap.Port()}
	} else if addr, err := netip.ParseAddr(to); err == nil {
		t = Target{Addr: addr}
	} else {
		return Target{}, fmt.Errorf("to %q: must be an address, an address with port, or a range such as 10.0.0.0/8", cutText(to))
	}
	if class := Classify(t.Addr); slices.Contains(floorClasses(), class) {
		return Target{}, fmt.Errorf("to %s: is %s, which no rule reaches", t.Addr, class)
	}
	return t, nil
}

func checkHostRange(prefix netip.Prefix) error {
	if least := map[bool]int{true: 8, false: 16}[prefix.Addr().Is4()]; prefix.Bits() < least {
		return fmt.Errorf("range %s: is wider than /%d", prefix, least)
	}
	if class := Classify(prefix.Addr().Next()); slices.Contains(floorClasses(), class) {
		return fmt.Errorf("range %s: is %s, which no rule reaches", prefix, class)
	}
	return nil
}

// checkPublicRange holds an ordinary rule to addresses that everybody can reach.
func checkPublicRange(prefix netip.Prefix) error {
	if prefix.Bits() < 8 {
		return fmt.Errorf("range %s: is wider than /8", prefix)
	}
	for _, r := range ranges4() {
		if special := netip.MustParsePrefix(r.prefix); special.Overlaps(prefix) && r.class != ClassDocumentation {
			return fmt.Errorf("range %s: holds %s addresses (%s); private networks and the host need a host: rule in your own configuration",
				prefix, r.class, r.prefix)
		}
	}
	return nil
}
