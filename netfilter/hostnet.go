package netfilter

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// HostNet is what of the network belongs to the host: its addresses and the
// prefixes that it reaches without a router. Both change with Wi-Fi and VPNs, so
// it is taken anew for each dial, see [CurrentHostNet].
type HostNet struct {
	Addrs    []netip.Addr
	Prefixes []netip.Prefix
}

// AddressError says why an address is not dialled.
type AddressError struct {
	Addr  netip.Addr
	Class Class
	Why   string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %s: %s", e.Addr, e.Why)
}

// Check is the floor under every rule: it refuses an address that is not public,
// is the host's own, or is a neighbour's on a network of the host. The error is
// an [*AddressError]. The address that was checked is the one to dial.
func (h HostNet) Check(addr netip.Addr) error {
	class := Classify(addr)
	if class != ClassPublic && !h.labAddress(addr, class) {
		return &AddressError{addr, class, fmt.Sprintf("is %s, not public", class)}
	}
	if slices.Contains(h.Addrs, addr) {
		return &AddressError{addr, class, "is the host's own"}
	}
	for _, p := range h.Prefixes {
		if p.Contains(addr) {
			return &AddressError{addr, class, fmt.Sprintf("is on the host's network %s", p)}
		}
	}
	return nil
}

// CheckTarget is Check with what a [HostRule] adds: its range lifts the floor for what lies in it. The host's
// own address in a private network is not lifted with all others there: a rule names it alone, or it is loopback.
func (h HostNet) CheckTarget(addr netip.Addr, target Target) error {
	err := h.Check(addr)
	if err == nil || !target.Allows(addr) {
		return err
	}
	if slices.Contains(h.Addrs, addr) && !addr.IsLoopback() && !target.Prefix.IsSingleIP() {
		return &AddressError{addr, Classify(addr), "is the host's own, which a range does not cover"}
	}
	return nil
}

// labAddress is the one exception: some closed networks (test labs, machines
// behind a transparent proxy for what leaves them) number everything from the
// documentation ranges of RFC 5737, and there they are what public addresses are
// elsewhere. A host whose own address is such a one stands in such a network; on
// any other host a documentation address is a mistake or a trick. The host's own
// address and neighbours stay refused.
func (h HostNet) labAddress(addr netip.Addr, class Class) bool {
	if class != ClassDocumentation || !addr.Is4() {
		return false
	}
	return slices.ContainsFunc(h.Addrs, func(own netip.Addr) bool {
		return own.Is4() && Classify(own) == ClassDocumentation
	})
}

// CurrentHostNet reads the host's interfaces. It asks the kernel each time.
func CurrentHostNet() (HostNet, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return HostNet{}, fmt.Errorf("read the host's addresses: %w", err)
	}
	var h HostNet
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			return HostNet{}, fmt.Errorf("read the host's address %q: %w", a, err)
		}
		own := p.Addr().Unmap().WithZone("")
		h.Addrs = append(h.Addrs, own)
		h.Prefixes = append(h.Prefixes, netip.PrefixFrom(own, p.Bits()).Masked())
	}
	return h, nil
}

// Unknown is the HostNet of a host whose addresses cannot be read: it counts every
// address as the host's, so that nothing is dialled.
func Unknown() HostNet {
	return HostNet{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
}
