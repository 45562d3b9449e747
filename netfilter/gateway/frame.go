package gateway

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Sizes and numbers of the headers that are looked at before gVisor.
const (
	etherLen  = 14
	ipv4Len   = 20
	arpLen    = 28
	typeIPv4  = 0x0800
	typeARP   = 0x0806
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
	echoType  = 8
	mtuMax    = 65535
)

// dropped is why a frame did not reach the stack.
type dropped uint8

// The reasons, in the order in which they are checked. passed is not a reason.
const (
	passed dropped = iota
	dropLength
	dropSourceMAC
	dropDestinationMAC
	dropEtherType
	dropARP
	dropIPHeader
	dropSourceIP
	dropDestinationIP
	dropFragment
	dropProtocol
	dropICMP
	dropReasons // how many there are
)

func (d dropped) String() string {
	return [...]string{
		"passed", "frame length", "source MAC", "destination MAC", "ethertype", "ARP", "IPv4 header",
		"source address", "destination address", "fragment", "protocol", "ICMP", "",
	}[d]
}

// frameFilter knows the only frames that a well-behaved guest sends to its
// only neighbour. It runs before gVisor, whose stack is promiscuous: what
// passes here is IPv4 or ARP, from the guest's own addresses, to the gateway's
// MAC, whole, without options, TCP or UDP to one host, or an echo request to
// the gateway.
type frameFilter struct {
	guestMAC, gatewayMAC [6]byte
	guest, gateway       netip.Addr
	subnet               netip.Prefix
	mtu                  int
}

func newFrameFilter(cfg *Config) frameFilter {
	f := frameFilter{guest: cfg.Guest.Addr(), gateway: cfg.Gateway, subnet: cfg.Guest.Masked(), mtu: cfg.MTU}
	copy(f.guestMAC[:], cfg.MAC)
	copy(f.gatewayMAC[:], gatewayMAC())
	return f
}

// gatewayMAC is the gateway's own, locally administered ("sbx"). It may be the
// same in all sandboxes: none of them shares a link with another.
func gatewayMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 's', 'b', 'x', 0, 1} }

// check judges one Ethernet frame; it never keeps it.
func (f *frameFilter) check(frame []byte) dropped {
	if len(frame) < etherLen || len(frame) > f.mtu+etherLen {
		return dropLength
	}
	if [6]byte(frame[6:12]) != f.guestMAC {
		return dropSourceMAC
	}
	to, body := [6]byte(frame[:6]), frame[etherLen:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case typeIPv4:
		if to != f.gatewayMAC {
			return dropDestinationMAC
		}
		return f.checkIPv4(body)
	case typeARP:
		if to != f.gatewayMAC && to != [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} {
			return dropDestinationMAC
		}
		return f.checkARP(body)
	}
	return dropEtherType
}

// checkARP passes a request of the guest, in its own name, for the gateway's
// address (RFC 826). Replies change nothing here: the guest's MAC is fixed.
func (f *frameFilter) checkARP(b []byte) dropped {
	if len(b) < arpLen || [8]byte(b[:8]) != [8]byte{0, 1, 8, 0, 6, 4, 0, 1} {
		return dropARP
	}
	if [6]byte(b[8:14]) != f.guestMAC || addr4(b[14:18]) != f.guest || addr4(b[24:28]) != f.gateway {
		return dropARP
	}
	return passed
}

func (f *frameFilter) checkIPv4(b []byte) dropped {
	if len(b) < ipv4Len || b[0] != 0x45 {
		return dropIPHeader
	}
	total := int(binary.BigEndian.Uint16(b[2:4]))
	if total < ipv4Len || total > len(b) {
		return dropIPHeader
	}
	b = b[:total]
	if binary.BigEndian.Uint16(b[6:8])&0xbfff != 0 { // all but "don't fragment": the reserved bit, "more", the offset
		return dropFragment
	}
	if addr4(b[12:16]) != f.guest {
		return dropSourceIP
	}
	to := addr4(b[16:20])
	if !f.unicast(to) {
		return dropDestinationIP
	}
	return f.checkTransport(b[9], to, b[ipv4Len:])
}

func (f *frameFilter) checkTransport(proto byte, to netip.Addr, b []byte) dropped {
	switch {
	case proto == protoTCP && len(b) >= 20, proto == protoUDP && len(b) >= 8:
		return passed
	case proto != protoICMP:
		return dropProtocol
	case to == f.gateway && len(b) >= 8 && b[0] == echoType && b[1] == 0:
		return passed
	}
	return dropICMP
}

// unicast says whether to can be one other host as the guest sees the world:
// not itself, its subnet's broadcast, this network, loopback, multicast, class E.
func (f *frameFilter) unicast(to netip.Addr) bool {
	if to == f.gateway {
		return true
	}
	first := to.As4()[0]
	return !f.subnet.Contains(to) && first != 0 && first != 127 && first < 224
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
