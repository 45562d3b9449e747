package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

const nicID = tcpip.NICID(1)

// startStack makes the stack: IPv4 and ARP, one interface that takes packets for
// any address (the names' addresses are not configured one by one), and the guest as
// its only, static neighbour.
func (g *Gateway) startStack() error {
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := g.configureStack(); err != nil {
		g.stack.Destroy()
		return err
	}
	// The window of a handshake decides the scale of all later ones: it must be the widest.
	forwarder := tcp.NewForwarder(g.stack, wideBuffer, maxInFlight, g.handleTCP)
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, g.refuseUDP)
	return nil
}

func (g *Gateway) configureStack() error {
	if err := tuneTCP(g.stack); err != nil {
		return err
	}
	guest, gateway := fromAddr(g.cfg.Guest.Addr()), fromAddr(g.cfg.Gateway)
	steps := []func() tcpip.Error{
		func() tcpip.Error { return g.stack.CreateNIC(nicID, g.link) },
		func() tcpip.Error {
			return g.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
				Protocol:          ipv4.ProtocolNumber,
				AddressWithPrefix: tcpip.AddressWithPrefix{Address: gateway, PrefixLen: g.cfg.Guest.Bits()},
			}, stack.AddressProperties{})
		},
		func() tcpip.Error {
			return g.stack.AddStaticNeighbor(nicID, ipv4.ProtocolNumber, guest, tcpip.LinkAddress(g.cfg.MAC))
		},
		func() tcpip.Error { return g.stack.SetPromiscuousMode(nicID, true) },
		func() tcpip.Error { return g.stack.SetSpoofing(nicID, true) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("configure the network stack: %s", err)
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{{Destination: subnetOf(g.cfg.Guest), NIC: nicID}})
	var err error
	g.dnsUDP, err = gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: nicID, Addr: gateway, Port: 53}, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	return nil
}

// tuneTCP turns SACK on and RACK off (the link does not reorder), and bounds
// buffers and the states after an end.
func tuneTCP(s *stack.Stack) error {
	sack, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: wideBuffer, Max: wideBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: wideBuffer, Max: wideBuffer}
	linger, wait := tcpip.TCPLingerTimeoutOption(lingerTimeout), tcpip.TCPTimeWaitTimeoutOption(lingerTimeout)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &send, &receive, &linger, &wait} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set %T: %s", option, err)
		}
	}
	return nil
}

// refuseUDP runs on the packet path for every datagram that is not DNS to the
// gateway. Returning false makes gVisor answer ICMP port unreachable, so that
// QUIC clients fall back at once; gVisor limits the rate of these answers.
func (g *Gateway) refuseUDP(id stack.TransportEndpointID, _ *stack.PacketBuffer) bool {
	addr := toAddr(id.LocalAddress)
	name, release, _ := g.names.Acquire(addr)
	release()
	g.denied(audit.Entry{Kind: audit.Drop, Name: name, Addr: addr.String(), Port: id.LocalPort, Proto: "udp", Reason: reasonUDP})
	return false
}

// DialGuest connects to a TCP port of the guest, from the gateway's address.
func (g *Gateway) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	if g.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel)
	defer stop()
	from := tcpip.FullAddress{NIC: nicID, Addr: fromAddr(g.cfg.Gateway)}
	to := tcpip.FullAddress{NIC: nicID, Addr: fromAddr(g.cfg.Guest.Addr()), Port: port}
	conn, err := gonet.DialTCPWithBind(ctx, g.stack, from, to, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial the guest's port %d: %w", port, err)
	}
	return conn, nil
}

// Drops counts the frames that did not reach the stack, by reason.
func (g *Gateway) Drops() map[string]uint64 {
	counts := make(map[string]uint64)
	for reason := dropped(1); reason < dropReasons; reason++ {
		if n := g.link.drops[reason].Load(); n > 0 {
			counts[reason.String()] = n
		}
	}
	return counts
}

// decideName tells whether a name may be resolved.
func (g *Gateway) decideName(name string) netfilter.Verdict {
	return g.policy.Load().Decide(netfilter.Request{Name: name})
}

func fromAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func toAddr(a tcpip.Address) netip.Addr {
	if a.Len() != header.IPv4AddressSize {
		return netip.Addr{}
	}
	return netip.AddrFrom4(a.As4())
}

func subnetOf(p netip.Prefix) tcpip.Subnet {
	p = p.Masked()
	return tcpip.AddressWithPrefix{Address: fromAddr(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}
