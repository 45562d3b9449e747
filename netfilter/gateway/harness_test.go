package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/sbx-vm/sbx/netfilter"
)

var (
	guestMAC    = net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
	guestPrefix = netip.MustParsePrefix("100.64.0.2/30")
	gatewayAddr = netip.MustParseAddr("100.64.0.1")
	public      = netip.MustParseAddr("93.184.215.14")
)

// baseRules is the policy of the attack cases unless one says otherwise.
func baseRules() []string {
	return []string{"example.com", "**.allowed.test", "api.anthropic.com", "github.com:22/tcp", "tls.test:8443"}
}

func policy(t testing.TB, allow ...string) *netfilter.Policy {
	t.Helper()
	spec := netfilter.Spec{Default: "deny"}
	for _, pattern := range allow {
		spec.Rules = append(spec.Rules, netfilter.Rule{
			Action: netfilter.Allow, Pattern: pattern, Origin: netfilter.Origin{Source: "user"},
		})
	}
	p, _, err := netfilter.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fakeNet is the Internet: a resolver and a dialer, both counting. Its methods may be called while the gateway
// asks it; a frame or an answer that came back orders nothing for the race detector, so tests set no field.
type fakeNet struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	lookup  func(ctx context.Context, name string) ([]netip.Addr, error) // replaces answers
	servers map[uint16]string                                            // loopback address by port
	dial    func(ctx context.Context, addr string) (net.Conn, error)     // replaces servers
	asked   []string
	dialled []string
}

func (n *fakeNet) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	name := strings.TrimSuffix(host, ".")
	n.mu.Lock()
	n.asked = append(n.asked, name)
	lookup, answer := n.lookup, n.answers[name]
	n.mu.Unlock()
	if lookup != nil {
		return lookup(ctx, name)
	}
	if answer == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return answer, nil
}

func (n *fakeNet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, address)
	dial, server := n.dial, n.servers[netip.MustParseAddrPort(address).Port()]
	n.mu.Unlock()
	if dial != nil {
		return dial(ctx, address)
	}
	if server == "" {
		return nil, errors.New("connection refused")
	}
	return new(net.Dialer).DialContext(ctx, network, server)
}

func (n *fakeNet) questions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.asked...)
}

func (n *fakeNet) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.dialled...)
}

// serve makes handle a server on loopback, reached at port of any public address.
func (n *fakeNet) serve(t testing.TB, port uint16, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	n.listen(port, l.Addr().String())
}

// listen makes port of any public address lead to a server on loopback from now on.
func (n *fakeNet) listen(port uint16, server string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[port] = server
}

// answer makes a name lead to these addresses from now on.
func (n *fakeNet) answer(name string, addrs ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = addrs
}

// resolveWith has lookup answer for every name from now on; nil ends that.
func (n *fakeNet) resolveWith(lookup func(ctx context.Context, name string) ([]netip.Addr, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookup = lookup
}

// dialWith has dial make every connection from now on; nil ends that.
func (n *fakeNet) dialWith(dial func(ctx context.Context, addr string) (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dial = dial
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// world is a gateway, the network behind it and the guest before it.
type world struct {
	*Gateway
	net   *fakeNet
	guest *guest
}

// guest plays the virtual machine: its wire, and a stack of its own on it.
type guest struct {
	t     testing.TB
	wire  net.Conn
	mu    sync.Mutex // one frame at a time on the wire
	ep    *channel.Endpoint
	stack *stack.Stack
	sniff chan []byte // frames from the gateway, if anybody reads them
	pad   atomic.Int32
}

func newWorld(t testing.TB, mtu int, allow ...string) *world {
	t.Helper()
	if allow == nil {
		allow = baseRules()
	}
	return newWorldWith(t, policy(t, allow...), func(c *Config) { c.MTU = mtu })
}

// newWorldWith is newWorld with a policy and a configuration of one's own.
func newWorldWith(t testing.TB, p *netfilter.Policy, edit func(*Config)) *world {
	t.Helper()
	fake := &fakeNet{servers: map[uint16]string{}, answers: map[string][]netip.Addr{}}
	for _, name := range []string{"example.com", "www.allowed.test", "api.anthropic.com", "github.com", "tls.test"} {
		fake.answer(name, public)
	}
	ours, theirs := socketpair(t)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	cfg := Config{
		Link: ours, MAC: guestMAC, Guest: guestPrefix, Gateway: gatewayAddr, Policy: p,
		HostNet: func() netfilter.HostNet { return netfilter.HostNet{} }, Resolver: fake, Dialer: fake, Log: log,
	}
	cfg.patience = patience{hello: time.Second, resolve: time.Second}
	edit(&cfg)
	g, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{g, fake, newGuest(t, theirs, g.cfg.MTU)}
	t.Cleanup(func() { w.guest.close(); g.Close() })
	return w
}

func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20)
		f := os.NewFile(uintptr(fd), "wire")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

func newGuest(t testing.TB, wire net.Conn, mtu int) *guest {
	t.Helper()
	gu := &guest{
		t: t, wire: wire, sniff: make(chan []byte, 4096),
		ep: channel.New(4096, uint32(mtu+etherLen), tcpip.LinkAddress(guestMAC)),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
	}
	_ = tuneTCP(gu.stack)
	if err := gu.stack.CreateNIC(nicID, ethernet.New(gu.ep)); err != nil {
		t.Fatal(err)
	}
	address := tcpip.AddressWithPrefix{Address: fromAddr(guestPrefix.Addr()), PrefixLen: guestPrefix.Bits()}
	if err := gu.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber, AddressWithPrefix: address,
	}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	gu.stack.SetRouteTable([]tcpip.Route{
		{Destination: address.Subnet(), NIC: nicID},
		{Destination: tcpip.AddressWithPrefix{Address: fromAddr(netip.IPv4Unspecified()), PrefixLen: 0}.Subnet(), Gateway: fromAddr(gatewayAddr), NIC: nicID},
	})
	go gu.transmit()
	go gu.receive()
	return gu
}

func (gu *guest) transmit() {
	for {
		pkt := gu.ep.ReadContext(context.Background())
		if pkt == nil {
			return
		}
		var frame []byte
		for _, s := range pkt.AsSlices() {
			frame = append(frame, s...)
		}
		pkt.DecRef()
		gu.inject(append(frame, make([]byte, gu.pad.Load())...))
	}
}

// inject writes a frame to the wire as QEMU would.
func (gu *guest) inject(frame []byte) {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, len(frame)+4), uint32(len(frame)))
	gu.raw(append(b, frame...))
}

func (gu *guest) raw(b []byte) {
	gu.mu.Lock()
	defer gu.mu.Unlock()
	_, _ = gu.wire.Write(b)
}

func (gu *guest) receive() {
	in := bufio.NewReaderSize(gu.wire, readBuffer)
	var prefix [4]byte
	for {
		if _, err := io.ReadFull(in, prefix[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(prefix[:]))
		if _, err := io.ReadFull(in, frame); err != nil {
			return
		}
		select {
		case gu.sniff <- frame:
		default:
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		gu.ep.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func (gu *guest) close() {
	gu.wire.Close()
	gu.ep.Close()
	gu.stack.Destroy()
}

// Limits that tell what happens from what does not, also on a machine that does much else: nothing here measures speed.
const (
	patient = 30 * time.Second
	soon    = 10 * time.Second // less than what any other end of a connection takes
)

// dial connects the guest to an address, within a limit.
func (gu *guest) dial(addr netip.Addr, port uint16) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	return gonet.DialContextTCP(ctx, gu.stack, tcpip.FullAddress{NIC: nicID, Addr: fromAddr(addr), Port: port}, ipv4.ProtocolNumber)
}

func (gu *guest) mustDial(addr netip.Addr, port uint16) *gonet.TCPConn {
	gu.t.Helper()
	c, err := gu.dial(addr, port)
	if err != nil {
		gu.t.Fatalf("dial %v:%d: %v", addr, port, err)
	}
	gu.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patient))
	return c
}

// udp sends a datagram and returns the answer or the error.
func (gu *guest) udp(addr netip.Addr, port uint16, payload []byte) ([]byte, error) {
	c, err := gonet.DialUDP(gu.stack, nil, &tcpip.FullAddress{NIC: nicID, Addr: fromAddr(addr), Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patient))
	if _, err := c.Write(payload); err != nil {
		return nil, err
	}
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	return buf[:n], err
}

func (gu *guest) exchange(q *dns.Msg) *dns.Msg {
	gu.t.Helper()
	b, err := q.Pack()
	if err != nil {
		gu.t.Fatal(err)
	}
	answer, err := gu.udp(gatewayAddr, 53, b)
	if err != nil {
		gu.t.Fatalf("DNS: %v", err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		gu.t.Fatal(err)
	}
	return m
}

func (gu *guest) ask(name string, qtype uint16) *dns.Msg {
	gu.t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	return gu.exchange(q)
}

// resolve gives the made-up address of an allowed name.
func (gu *guest) resolve(name string) netip.Addr {
	gu.t.Helper()
	m := gu.ask(name, dns.TypeA)
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		gu.t.Fatalf("A %s: %v", name, m)
	}
	addr, _ := netip.AddrFromSlice(m.Answer[0].(*dns.A).A.To4())
	return addr
}

// text sends words over a new connection and returns all that comes back.
func (gu *guest) text(name string, port uint16, words string) (string, error) {
	gu.t.Helper()
	c := gu.mustDial(gu.resolve(name), port)
	if _, err := c.Write([]byte(words)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// eventually waits for a condition, because verdicts travel.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patient, what)
		}
	}
}

// deniedFor waits for a refusal with the reason and gives it.
func (w *world) deniedFor(t testing.TB, reason string) {
	t.Helper()
	eventually(t, fmt.Sprintf("a denial for %q; have %v", reason, w.Denials(time.Time{})), func() bool {
		for _, e := range w.Denials(time.Time{}) {
			if e.Reason == reason || strings.HasPrefix(e.Reason, reason+":") {
				return true
			}
		}
		return false
	})
}

// quiet asserts that nothing left the host.
func (w *world) quiet(t testing.TB) {
	t.Helper()
	if d := w.net.dials(); len(d) > 0 {
		t.Errorf("dialled %v", d)
	}
}
