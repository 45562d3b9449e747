package netfilter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxRanges bounds the ports of one rule: deciding a name walks all of them.
const maxRanges = 16

// portRange is an inclusive range of TCP ports. Raw ranges (written /tcp) are
// forwarded unread, the others must speak TLS or HTTP with the rule's name.
type portRange struct {
	lo, hi uint16
	raw    bool
}

func webPorts() []portRange { return []portRange{{lo: 443, hi: 443}, {lo: 80, hi: 80}} }
func allPorts() []portRange { return []portRange{{lo: 1, hi: 65535}} }

// parsePorts reads "443,8443", "8000-8100", "22/tcp".
func parsePorts(s string) ([]portRange, error) {
	items := strings.Split(s, ",")
	if len(items) > maxRanges {
		return nil, fmt.Errorf("%d ports and ranges, more than %d", len(items), maxRanges)
	}
	ranges := make([]portRange, 0, len(items))
	for _, item := range items {
		r, err := parseRange(item)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

func parseRange(item string) (portRange, error) {
	numbers, proto, tagged := strings.Cut(item, "/")
	if tagged && proto != "tcp" {
		return portRange{}, fmt.Errorf("port %q: only /tcp can follow a port, nothing but TCP leaves the guest", item)
	}
	first, last, ranged := strings.Cut(numbers, "-")
	lo, err := parsePort(first)
	if err != nil {
		return portRange{}, err
	}
	hi := lo
	if ranged {
		if hi, err = parsePort(last); err != nil {
			return portRange{}, err
		}
	}
	if hi < lo {
		return portRange{}, fmt.Errorf("port range %q: ends before it begins", item)
	}
	return portRange{lo: lo, hi: hi, raw: tagged}, nil
}

// parsePort takes plain decimal alone: no sign, no underscore, no leading zero
// that another reader takes for octal.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, errors.New("port is missing")
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("port %q: must be a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// find gives the strictest range that holds the port: one that is read goes
// before a raw one, so that an added /tcp never loosens what is there.
func find(ranges []portRange, port uint16) (portRange, bool) {
	best, found := portRange{}, false
	for _, r := range ranges {
		if r.lo <= port && port <= r.hi && (!found || best.raw) {
			best, found = r, true
		}
	}
	return best, found
}
