package netfilter

import "net/netip"

// Class says what kind of address one is. Only [ClassPublic] can be dialled.
type Class string

// The classes.
const (
	ClassPublic        Class = "public"
	ClassInvalid       Class = "invalid"
	ClassUnspecified   Class = "unspecified"
	ClassLoopback      Class = "loopback"
	ClassLinkLocal     Class = "link-local"
	ClassMetadata      Class = "metadata"
	ClassPrivate       Class = "private"
	ClassShared        Class = "shared" // carrier-grade NAT, overlay networks
	ClassDocumentation Class = "documentation"
	ClassBenchmark     Class = "benchmark"
	ClassMulticast     Class = "multicast"
	ClassReserved      Class = "reserved"
	ClassEmbedded      Class = "embedded" // an IPv6 address that carries an IPv4 address and may lead to it
)

type classRange struct {
	prefix string
	class  Class
}

// Classify places an address by a table of our own: Go's helpers call many of
// these public (FACTS: 100.64/10, 198.18/15, 192.0.0/24, 240/4, NAT64, 6to4,
// Teredo, v4-compatible, fec0::/10). A zone or an IPv4-mapped form is not public,
// whatever stands inside; a caller whose resolver maps should Unmap first.
func Classify(addr netip.Addr) Class {
	if !addr.IsValid() {
		return ClassInvalid
	}
	if addr.Zone() != "" {
		return ClassLinkLocal
	}
	table := ranges6()
	if addr.Is4() {
		table = ranges4()
	}
	for _, r := range table {
		if netip.MustParsePrefix(r.prefix).Contains(addr) {
			return r.class
		}
	}
	if addr.Is6() && isatap(addr) {
		return ClassEmbedded
	}
	if addr.Is6() && !netip.MustParsePrefix("2000::/3").Contains(addr) {
		return ClassReserved // IANA has given out global unicast from 2000::/3 alone
	}
	return ClassPublic
}

// isatap finds an IPv4 address in the lower half of any prefix (RFC 5214 section 6.1): a host with such an
// interface sends the packet to it.
func isatap(addr netip.Addr) bool {
	b := addr.As16()
	return b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// ranges4 is IANA's IPv4 special-purpose registry (RFC 6890) and the metadata
// services that hide in public or private space. The first match counts.
func ranges4() []classRange {
	return []classRange{
		{"169.254.169.254/32", ClassMetadata}, // EC2, GCE, Azure, most others
		{"169.254.170.0/24", ClassMetadata},   // ECS and EKS credentials
		{"168.63.129.16/32", ClassMetadata},   // Azure's wire server, public to every helper
		{"100.100.100.200/32", ClassMetadata}, // Alibaba
		{"192.0.0.192/32", ClassMetadata},     // Oracle
		{"0.0.0.0/32", ClassUnspecified},
		{"0.0.0.0/8", ClassReserved},
		{"127.0.0.0/8", ClassLoopback},
		{"169.254.0.0/16", ClassLinkLocal},
		{"10.0.0.0/8", ClassPrivate},
		{"172.16.0.0/12", ClassPrivate},
		{"192.168.0.0/16", ClassPrivate},
		{"100.64.0.0/10", ClassShared},
		{"192.0.0.0/24", ClassReserved},
		{"192.0.2.0/24", ClassDocumentation},
		{"198.51.100.0/24", ClassDocumentation},
		{"203.0.113.0/24", ClassDocumentation},
		{"192.88.99.0/24", ClassReserved}, // 6to4 relays, deprecated by RFC 7526
		{"198.18.0.0/15", ClassBenchmark},
		{"224.0.0.0/4", ClassMulticast},
		{"240.0.0.0/4", ClassReserved}, // with the limited broadcast
	}
}

// ranges6 is IANA's IPv6 special-purpose registry and what older documents
// reserved. Addresses outside 2000::/3 that no row names are reserved as well.
func ranges6() []classRange {
	return []classRange{
		{"fd00:ec2::/32", ClassMetadata},          // EC2 over IPv6
		{"fd20:ce::254/128", ClassMetadata},       // GCE over IPv6
		{"fd00:42::42/128", ClassMetadata},        // Scaleway over IPv6
		{"fd00:c1::a9fe:a9fe/128", ClassMetadata}, // Oracle over IPv6
		{"::/128", ClassUnspecified},
		{"::1/128", ClassLoopback},
		{"::ffff:0:0/96", ClassEmbedded},   // v4-mapped
		{"::ffff:0:0:0/96", ClassEmbedded}, // v4-translated, RFC 2765
		{"::/96", ClassEmbedded},           // v4-compatible
		{"64:ff9b::/96", ClassEmbedded},    // NAT64, RFC 6052
		{"64:ff9b:1::/48", ClassEmbedded},  // local NAT64, RFC 8215
		{"2002::/16", ClassEmbedded},       // 6to4
		{"2001::/32", ClassEmbedded},       // Teredo
		{"2001:db8::/32", ClassDocumentation},
		{"3fff::/20", ClassDocumentation}, // RFC 9637
		{"2001:2::/48", ClassBenchmark},
		{"2001::/23", ClassReserved},      // IETF protocol assignments: ORCHID, DRIP …
		{"5f00::/16", ClassReserved},      // segment routing
		{"100::/64", ClassReserved},       // discard only
		{"100:0:0:1::/64", ClassReserved}, // dummy prefix, RFC 9780
		{"fe80::/10", ClassLinkLocal},
		{"fec0::/10", ClassPrivate}, // site-local, RFC 3879
		{"fc00::/7", ClassPrivate},
		{"ff00::/8", ClassMulticast},
	}
}
