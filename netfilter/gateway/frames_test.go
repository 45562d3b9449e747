package gateway

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ethFrame wraps a payload as the guest's frame to the gateway.
func ethFrame(etherType uint16, payload []byte) []byte {
	f := append(append(gatewayMAC(), guestMAC...), byte(etherType>>8), byte(etherType))
	return append(f, payload...)
}

// ipFrame is an IPv4 packet of the guest, with a right header checksum.
func ipFrame(proto byte, to netip.Addr, payload []byte) []byte {
	h := make([]byte, ipv4Len, ipv4Len+len(payload))
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+len(payload)))
	copy(h[12:], guestPrefix.Addr().AsSlice())
	copy(h[16:], to.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
	return ethFrame(typeIPv4, append(h, payload...))
}

// udpPacket has no checksum, which IPv4 allows.
func udpPacket(from, to uint16, payload []byte) []byte {
	h := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(h, from)
	binary.BigEndian.PutUint16(h[2:], to)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	return append(h, payload...)
}

// synPacket is a TCP SYN with a right checksum.
func synPacket(from uint16, to netip.Addr, port uint16) []byte {
	h := header.TCP(make([]byte, 20))
	h.Encode(&header.TCPFields{SrcPort: from, DstPort: port, SeqNum: 1000, DataOffset: 20, Flags: header.TCPFlagSyn, WindowSize: 65535})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, fromAddr(guestPrefix.Addr()), fromAddr(to), 20)
	h.SetChecksum(^h.CalculateChecksum(sum))
	return h
}

func echoRequest(payload int) []byte {
	b := make([]byte, 8+payload)
	b[0] = echoType
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
	return b
}

func arpRequest(sender netip.Addr, target netip.Addr) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, guestMAC...)
	b = append(b, sender.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	return append(b, target.AsSlice()...)
}

// dropped waits for the filter to have dropped n frames for the reason.
func (w *world) dropped(t testing.TB, reason dropped, n uint64) {
	t.Helper()
	eventually(t, "a dropped frame: "+reason.String(), func() bool { return w.Drops()[reason.String()] >= n })
}

// hears waits for a frame from the gateway that is as wanted.
func (gu *guest) hears(within time.Duration, want func(frame []byte) bool) bool {
	limit := time.After(within)
	for {
		select {
		case f := <-gu.sniff:
			if want(f) {
				return true
			}
		case <-limit:
			return false
		}
	}
}

func isICMP(kind byte) func([]byte) bool {
	return func(f []byte) bool {
		return len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == typeIPv4 && f[23] == protoICMP && f[34] == kind
	}
}

// badFrame is a frame that no guest sends, and why it is dropped.
type badFrame struct {
	name   string
	reason dropped
	frame  []byte
}

func badFrames() []badFrame {
	mutate := func(f []byte, at int, b ...byte) []byte {
		copy(f[at:], b)
		return f
	}
	ip := func() []byte { return ipFrame(protoUDP, public, udpPacket(1000, 2000, []byte("x"))) }
	return []badFrame{
		{"empty", dropLength, nil},
		{"runt", dropLength, make([]byte, 13)},
		{"L7 other source MAC", dropSourceMAC, mutate(ip(), 6, 2, 2, 2, 2, 2, 2)},
		{"L17 other destination MAC", dropDestinationMAC, mutate(ip(), 0, 2, 2, 2, 2, 2, 2)},
		{"L18 broadcast IPv4", dropDestinationMAC, mutate(ip(), 0, 255, 255, 255, 255, 255, 255)},
		{"L1 IPv6", dropEtherType, ethFrame(0x86dd, make([]byte, 40))},
		{"L3 IPv6 router advertisement", dropEtherType, ethFrame(0x86dd, append([]byte{0x60, 0, 0, 0, 0, 16, 58, 255}, make([]byte, 48)...))},
		{"L13 VLAN", dropEtherType, ethFrame(0x8100, append([]byte{0, 1, 8, 0}, ip()[etherLen:]...))},
		{"L13 QinQ", dropEtherType, ethFrame(0x88a8, make([]byte, 40))},
		{"L13 LLDP", dropEtherType, ethFrame(0x88cc, make([]byte, 40))},
		{"L13 EAPOL", dropEtherType, ethFrame(0x888e, make([]byte, 40))},
		{"L13 LLC", dropEtherType, ethFrame(40, make([]byte, 40))},
		{"L8 ARP for another sender", dropARP, ethFrame(typeARP, arpRequest(gatewayAddr, gatewayAddr))},
		{"L8 gratuitous ARP", dropARP, ethFrame(typeARP, arpRequest(guestPrefix.Addr(), guestPrefix.Addr()))},
		{"L8 ARP reply", dropARP, ethFrame(typeARP, mutate(arpRequest(guestPrefix.Addr(), gatewayAddr), 7, 2))},
		{"ARP cut short", dropARP, ethFrame(typeARP, make([]byte, 20))},
		{"IPv4 cut short", dropIPHeader, ethFrame(typeIPv4, []byte{0x45})},
		{"L12 IHL below 5", dropIPHeader, mutate(ip(), 14, 0x44)},
		{"L12 IHL beyond frame", dropIPHeader, mutate(ip(), 14, 0x4f)},
		{"L12 total length beyond frame", dropIPHeader, mutate(ip(), 16, 0xff, 0xff)},
		{"L12 total length below header", dropIPHeader, mutate(ip(), 16, 0, 19)},
		{"IP version 6 in IPv4", dropIPHeader, mutate(ip(), 14, 0x65)},
		{"spoofed source address", dropSourceIP, mutate(ip(), 26, 8, 8, 8, 8)},
		{"L9 DHCP from nowhere", dropSourceIP, mutate(ip(), 26, 0, 0, 0, 0)},
		{"L5 first fragment", dropFragment, mutate(ip(), 20, 0x20, 0)},
		{"L5 later fragment", dropFragment, mutate(ip(), 20, 0, 8)},
		{"P10 SCTP", dropProtocol, ipFrame(132, public, make([]byte, 20))},
		{"P10 GRE", dropProtocol, ipFrame(47, public, make([]byte, 20))},
		{"P10 IPIP", dropProtocol, ipFrame(4, public, make([]byte, 20))},
		{"P10 ESP", dropProtocol, ipFrame(50, public, make([]byte, 20))},
		{"P10 IGMP", dropProtocol, ipFrame(2, public, make([]byte, 20))},
		{"P10 protocol 255", dropProtocol, ipFrame(255, gatewayAddr, make([]byte, 20))},
		{"UDP cut short", dropProtocol, ipFrame(protoUDP, public, make([]byte, 7))},
		{"P8 echo elsewhere", dropICMP, ipFrame(protoICMP, public, echoRequest(8))},
		{"echo reply", dropICMP, ipFrame(protoICMP, gatewayAddr, make([]byte, 8))},
		{"ICMP redirect", dropICMP, ipFrame(protoICMP, gatewayAddr, append([]byte{5}, make([]byte, 27)...))},
		{"loopback destination", dropDestinationIP, ipFrame(protoUDP, netip.MustParseAddr("127.0.0.1"), udpPacket(1, 2, nil))},
		{"L18 SSDP", dropDestinationIP, ipFrame(protoUDP, netip.MustParseAddr("239.255.255.250"), udpPacket(1, 1900, nil))},
	}
}

func testFilter() frameFilter {
	cfg := &Config{MAC: guestMAC, Guest: guestPrefix, Gateway: gatewayAddr, MTU: 1500}
	return newFrameFilter(cfg)
}

func TestFrameFilter(t *testing.T) {
	f := testFilter()
	for _, c := range badFrames() {
		if got := f.check(c.frame); got != c.reason {
			t.Errorf("%s: %v, want %v", c.name, got, c.reason)
		}
	}
	for name, frame := range map[string][]byte{
		"ARP":     ethFrame(typeARP, arpRequest(guestPrefix.Addr(), gatewayAddr)),
		"DNS":     ipFrame(protoUDP, gatewayAddr, udpPacket(1000, 53, nil)),
		"padded":  append(ipFrame(protoUDP, gatewayAddr, udpPacket(1000, 53, nil)), make([]byte, 18)...),
		"SYN":     ipFrame(protoTCP, netip.MustParseAddr("198.18.0.1"), synPacket(1000, public, 443)),
		"ping":    ipFrame(protoICMP, gatewayAddr, echoRequest(56)),
		"largest": ipFrame(protoUDP, public, make([]byte, 1480)),
	} {
		if got := f.check(frame); got != passed {
			t.Errorf("%s: dropped for %v", name, got)
		}
	}
	if got := f.check(ipFrame(protoUDP, public, make([]byte, 1481))); got != dropLength {
		t.Errorf("one byte over the MTU: %v", got)
	}
}

// FuzzFrame holds that whatever passes is whole, IPv4 or ARP, and the guest's own.
func FuzzFrame(f *testing.F) {
	for _, c := range badFrames() {
		f.Add(c.frame)
	}
	f.Add(ipFrame(protoUDP, gatewayAddr, udpPacket(1000, 53, nil)))
	filter := testFilter()
	w := newWorld(f, 1500)
	in := newInbound(w.link)
	f.Fuzz(func(t *testing.T, frame []byte) {
		// The stack behind the filter must not panic either, over one frame or over joined ones.
		in.add(frame)
		if len(frame) > 20 {
			inner := frame[:min(len(frame), 1400)]
			in.add(ipFrame([]byte{protoTCP, protoUDP, protoICMP}[frame[0]%3], gatewayAddr, inner))
			in.add(ipFrame(protoTCP, gatewayAddr, inner))
		}
		in.flush()
		if n := w.link.panics.Load(); n > 0 {
			t.Fatalf("%d panics in the stack", n)
		}
		if filter.check(frame) != passed {
			return
		}
		if len(frame) < etherLen+ipv4Len || [6]byte(frame[6:12]) != [6]byte(guestMAC) {
			t.Fatalf("passed %x", frame)
		}
		if binary.BigEndian.Uint16(frame[12:]) == typeIPv4 && addr4(frame[26:30]) != guestPrefix.Addr() {
			t.Fatalf("passed a spoofed source: %x", frame)
		}
	})
}
