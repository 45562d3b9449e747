package netfilter

import (
	"errors"
	"net/netip"
	"testing"
)

// TestClassify is the S rows and what stands at the edges of the table.
func TestClassify(t *testing.T) {
	for addr, want := range map[string]Class{
		"127.0.0.1": ClassLoopback, "127.8.8.8": ClassLoopback, "::1": ClassLoopback,
		"0.0.0.0": ClassUnspecified, "::": ClassUnspecified, "0.1.2.3": ClassReserved,
		"10.0.0.1": ClassPrivate, "172.16.0.1": ClassPrivate, "172.31.255.255": ClassPrivate, "192.168.1.1": ClassPrivate,
		"172.15.255.255": ClassPublic, "172.32.0.0": ClassPublic, "11.0.0.0": ClassPublic, "9.255.255.255": ClassPublic,
		"169.254.169.254": ClassMetadata, "169.254.170.2": ClassMetadata, "169.254.170.23": ClassMetadata,
		"168.63.129.16": ClassMetadata, "100.100.100.200": ClassMetadata, "192.0.0.192": ClassMetadata,
		"fd00:ec2::254": ClassMetadata, "fd20:ce::254": ClassMetadata, "168.63.129.17": ClassPublic,
		"169.254.1.1": ClassLinkLocal, "fe80::1": ClassLinkLocal, "fe80::1%eth0": ClassLinkLocal, "2600::1%eth0": ClassLinkLocal,
		"100.64.0.1": ClassShared, "100.127.255.255": ClassShared, "100.63.255.255": ClassPublic, "100.128.0.0": ClassPublic,
		"198.18.0.1": ClassBenchmark, "198.19.255.255": ClassBenchmark, "198.20.0.0": ClassPublic, "2001:2::1": ClassBenchmark,
		"192.0.0.1": ClassReserved, "192.0.2.1": ClassDocumentation, "198.51.100.1": ClassDocumentation, "203.0.113.1": ClassDocumentation,
		"192.88.99.1": ClassReserved, "240.0.0.1": ClassReserved, "255.255.255.255": ClassReserved,
		"224.0.0.1": ClassMulticast, "239.255.255.250": ClassMulticast, "ff02::1": ClassMulticast,
		"fc00::1": ClassPrivate, "fd7a:115c:a1e0:b1a::a01:203": ClassPrivate, "fec0::1": ClassPrivate,
		"::ffff:127.0.0.1": ClassEmbedded, "::ffff:10.0.0.1": ClassEmbedded, "::ffff:8.8.8.8": ClassEmbedded, "::7f00:1": ClassEmbedded,
		"64:ff9b::7f00:1": ClassEmbedded, "64:ff9b::808:808": ClassEmbedded, "64:ff9b:1::1": ClassEmbedded,
		"2002:7f00:1::": ClassEmbedded, "2001:0:1::1": ClassEmbedded, "::ffff:0:7f00:1": ClassEmbedded,
		"2001:db8::1": ClassDocumentation, "3fff:1::": ClassDocumentation, "2001:10::1": ClassReserved, "2001:20::1": ClassReserved,
		"100::1": ClassReserved, "5f00::1": ClassReserved, "4000::1": ClassReserved, "1::1": ClassReserved, "64:ff9b:2::1": ClassReserved,
		"2606:4700::1111": ClassPublic, "2a00:1450:4001::1": ClassPublic, "2001:4860:4860::8888": ClassPublic,
		"fd00:42::42": ClassMetadata, "fd00:c1::a9fe:a9fe": ClassMetadata, "fd00:42::43": ClassPrivate,
		"2a00:1450::5efe:7f00:1": ClassEmbedded, "2a00:1450::200:5efe:a00:1": ClassEmbedded, "2a00:1450::100:5efe:a00:1": ClassPublic,
		"8.8.8.8": ClassPublic, "1.1.1.1": ClassPublic, "223.255.255.255": ClassPublic,
	} {
		if got := Classify(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Classify(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := Classify(netip.Addr{}); got != ClassInvalid {
		t.Errorf("Classify of nothing = %s", got)
	}
}

func hostNet(prefixes ...string) HostNet {
	var h HostNet
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		h.Addrs = append(h.Addrs, p.Addr())
		h.Prefixes = append(h.Prefixes, p.Masked())
	}
	return h
}

// TestCheck is S18, S19 and the one fact about the host that relaxes a class.
func TestCheck(t *testing.T) {
	laptop := hostNet("127.0.0.1/8", "::1/128", "192.168.7.20/24", "2a02:8100:1::20/64")
	server := hostNet("127.0.0.1/8", "93.184.215.14/24")
	lab := hostNet("127.0.0.1/8", "192.0.2.2/24", "fd00::2/64")
	labOn6 := hostNet("2001:db8::2/64")
	for _, tc := range []struct {
		host HostNet
		addr string
		ok   bool
	}{
		{laptop, "1.1.1.1", true},
		{laptop, "2606:4700::1111", true},
		{laptop, "192.168.7.1", false},
		{laptop, "10.1.2.3", false},
		{laptop, "2a02:8100:1::20", false},
		{laptop, "2a02:8100:1::21", false},
		{laptop, "2a02:8100:2::20", true},
		{laptop, "203.0.113.7", false},
		{laptop, "192.0.2.9", false},
		{laptop, "2001:db8::1", false},
		{server, "93.184.215.14", false},
		{server, "93.184.215.99", false},
		{server, "93.184.216.1", true},
		{server, "203.0.113.7", false},
		{lab, "203.0.113.7", true},
		{lab, "198.51.100.7", true},
		{lab, "192.0.2.2", false},
		{lab, "192.0.2.3", false},
		{lab, "1.1.1.1", true},
		{lab, "10.0.0.1", false},
		{lab, "198.18.0.1", false},
		{lab, "::ffff:203.0.113.7", false},
		{lab, "2001:db8::1", false},
		{labOn6, "203.0.113.7", false},
		{labOn6, "2001:db8:1::1", false},
		{HostNet{Addrs: lab.Addrs}, "192.0.2.2", false},
		{HostNet{}, "1.1.1.1", true},
		{HostNet{}, "127.0.0.1", false},
	} {
		err := tc.host.Check(netip.MustParseAddr(tc.addr))
		var ae *AddressError
		if (err == nil) != tc.ok || err != nil && !errors.As(err, &ae) {
			t.Errorf("%v: Check(%s) = %v", tc.host.Addrs, tc.addr, err)
		}
	}
	if (HostNet{}).Check(netip.Addr{}) == nil {
		t.Error("no address passes")
	}
}

func TestCurrentHostNet(t *testing.T) {
	h, err := CurrentHostNet()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range h.Addrs {
		if h.Check(addr) == nil {
			t.Errorf("the host's own %s passes", addr)
		}
	}
	if len(h.Addrs) == 0 || len(h.Addrs) != len(h.Prefixes) {
		t.Errorf("%d addresses, %d prefixes", len(h.Addrs), len(h.Prefixes))
	}
}
