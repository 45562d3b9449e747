package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
)

// frameRows injects each frame that is of a row, and asserts that it is dropped for its
// reason and that nothing comes back.
func frameRows() []row {
	numbered := regexp.MustCompile(`^[A-Z]\d+ `)
	var rows []row
	for _, c := range badFrames() {
		if !numbered.MatchString(c.name) {
			continue
		}
		rows = append(rows, row{c.name, func(t *testing.T, w *world) {
			w.guest.inject(c.frame)
			w.dropped(t, c.reason, 1)
			w.guest.resolve("example.com") // the link is in order: an answer would have come before
			w.guest.heardOnlyDNS(t)
			w.quiet(t)
		}})
	}
	return rows
}

// heardOnlyDNS asserts that all frames so far were ARP, or DNS answers.
func (gu *guest) heardOnlyDNS(t *testing.T) {
	t.Helper()
	for {
		select {
		case f := <-gu.sniff:
			isARP := binary.BigEndian.Uint16(f[12:]) == typeARP
			if !isARP && (len(f) < 42 || f[23] != protoUDP || binary.BigEndian.Uint16(f[34:]) != 53) {
				t.Errorf("the gateway sent %x", f)
			}
		default:
			return
		}
	}
}

func moreRows() []row {
	return []row{
		{"L2_extension_headers", func(t *testing.T, w *world) {
			for _, next := range []byte{0, 43, 44, 51, 60, 135} { // hop by hop, routing, fragment, AH, destination, mobility
				ip6 := append([]byte{0x60, 0, 0, 0, 0, 48, next, 64}, make([]byte, 32)...)
				chain := append([]byte{next, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 32)...)
				w.guest.inject(ethFrame(0x86dd, append(ip6, chain...)))
			}
			w.guest.inject(ethFrame(0x86dd, append([]byte{0x60, 0, 0, 0, 0, 0, 0, 64}, make([]byte, 60_000)...))) // jumbo
			w.dropped(t, dropEtherType, 7)
			w.guest.resolve("example.com")
			w.guest.heardOnlyDNS(t)
		}},
		{"L5_flood_of_fragments", func(t *testing.T, w *world) {
			f := ipFrame(protoUDP, public, udpPacket(1000, 2000, make([]byte, 64)))
			f[20] = 0x20
			for i := range 65_000 {
				f[18], f[19] = byte(i>>8), byte(i)
				w.guest.inject(f)
			}
			w.dropped(t, dropFragment, 65_000)
			w.guest.resolve("example.com")
		}},
		{"L9_DHCP_games", dhcpGames},
		{"L15_oversize", func(t *testing.T, w *world) {
			w.guest.inject(make([]byte, etherLen+mtuMax)) // one length more than the guest's MTU allows
			w.dropped(t, dropLength, 1)
			w.guest.resolve("example.com")
			w.guest.heardOnlyDNS(t)
		}},
		{"L17_address_of_another_sandbox", func(t *testing.T, w *world) {
			other := newWorld(t, 0)
			for _, frame := range [][]byte{
				ipFrame(protoTCP, netip.MustParseAddr("100.64.0.6"), synPacket(1000, netip.MustParseAddr("100.64.0.6"), 22)),
				ipFrame(protoUDP, netip.MustParseAddr("100.64.0.6"), udpPacket(1000, 53, []byte("x"))),
			} {
				w.guest.inject(frame)
			}
			w.deniedFor(t, reasonUnknown)
			w.quiet(t)
			other.quiet(t)
			if n := len(other.Denials(time.Time{})) + len(other.Drops()); n != 0 {
				t.Errorf("the other sandbox saw something: %v, %v", other.Denials(time.Time{}), other.Drops())
			}
		}},
		{"S19_the_guests_own_subnet", func(t *testing.T, w *world) {
			for _, addr := range []string{gatewayAddr.String(), guestPrefix.Addr().String(), "100.64.0.3", "100.64.0.6"} {
				rebinding(t, w, netip.MustParseAddr(addr))
			}
			w.guest.inject(ipFrame(protoTCP, netip.MustParseAddr("100.64.0.3"), synPacket(1000, netip.MustParseAddr("100.64.0.3"), 80)))
			w.dropped(t, dropDestinationIP, 1)
			w.quiet(t)
		}},
		{"H12_CONNECT_and_another_Host", func(t *testing.T, w *world) {
			refusedHTTP(t, w, "CONNECT example.com:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n", "405")
			refusedHTTP(t, w, "CONNECT evil.test:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "405")
		}},
		{"H26_slow_head", func(t *testing.T, w *world) {
			c := w.guest.mustDial(w.guest.resolve("example.com"), 80)
			start := time.Now()
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: exam"); err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(c)
			if took := time.Since(start); took > soon {
				t.Errorf("a head that does not end was waited for %v", took)
			}
			w.quiet(t)
		}},
		{"H29_no_proxy_settings", func(t *testing.T, w *world) {
			serveHTTP(t, w, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "served") }))
			answer, err := w.guest.text("example.com", 80, "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
			if err != nil || !strings.HasSuffix(answer, "served") {
				t.Errorf("%q, %v", answer, err)
			}
			if m := w.guest.ask("evil.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("%v", m)
			}
		}},
		{"X1_ten_half_open_change_nothing", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			addr := w.guest.resolve("github.com")
			open := w.guest.mustDial(addr, 22)
			for i := range 10 {
				w.guest.inject(ipFrame(protoTCP, addr, synPacket(uint16(2000+i), addr, 22)))
			}
			roundTrip(t, open)
			roundTrip(t, w.guest.mustDial(addr, 22))
		}},
		{"L12_malformed_frames_beside_a_connection", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			open := w.guest.mustDial(w.guest.resolve("github.com"), 22)
			for _, c := range badFrames() {
				w.guest.inject(c.frame)
				roundTrip(t, open)
			}
			if n := w.link.panics.Load(); n > 0 {
				t.Errorf("%d panics in the stack", n)
			}
		}},
		{"G2_no_forwarding_interface", func(t *testing.T, w *world) {
			for _, port := range []uint16{22, 80, 443, 2375, 7777, 8080} {
				if c, err := w.guest.dial(gatewayAddr, port); err == nil {
					c.Close()
					t.Errorf("the gateway has a service on port %d", port)
				}
			}
			w.deniedFor(t, reasonGateway)
			w.quiet(t)
		}},
		{"P3_another_host_on_the_address_of_an_allowed_one", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			roundTrip(t, w.guest.mustDial(w.guest.resolve("github.com"), 22))
			before := len(w.net.dials())
			for _, addr := range []netip.Addr{public, w.guest.resolve("example.com")} { // both lead where github.com does
				if _, err := w.guest.dial(addr, 22); err == nil {
					t.Errorf("%v:22 is open beside github.com:22", addr)
				}
			}
			if got := w.net.dials(); len(got) != before {
				t.Errorf("dialled %v", got)
			}
		}},
		{"C8_the_more_specific_rule_wins", specificWins},
	}
}

// dhcpGames plays client and server with a gateway that has no DHCP: the guest's
// address is given on its kernel's command line.
func dhcpGames(t *testing.T, w *world) {
	discover := ipFrame(protoUDP, netip.MustParseAddr("255.255.255.255"), udpPacket(68, 67, make([]byte, 300)))
	for i := range 1000 { // starvation: other hardware addresses inside
		discover[len(discover)-1], discover[len(discover)-2] = byte(i), byte(i>>8)
		w.guest.inject(discover)
	}
	offer := ipFrame(protoUDP, netip.MustParseAddr("100.64.0.3"), udpPacket(67, 68, make([]byte, 300)))
	w.guest.inject(offer)
	broadcast := ipFrame(protoUDP, gatewayAddr, udpPacket(68, 67, make([]byte, 300)))
	copy(broadcast, []byte{255, 255, 255, 255, 255, 255})
	w.guest.inject(broadcast)
	w.dropped(t, dropDestinationIP, 1001)
	w.dropped(t, dropDestinationMAC, 1)
	w.guest.inject(ipFrame(protoUDP, gatewayAddr, udpPacket(68, 67, make([]byte, 300)))) // a server at the gateway itself
	w.deniedFor(t, reasonUDP)
	w.guest.resolve("example.com")
}

func specificWins(t *testing.T, w *world) {
	allow := netfilter.Rule{Action: netfilter.Allow, Pattern: "**.allowed.test", Origin: netfilter.Origin{Source: "user"}}
	deny := netfilter.Rule{Action: netfilter.Deny, Pattern: "bad.allowed.test", Origin: netfilter.Origin{Source: "user"}}
	equal := netfilter.Rule{Action: netfilter.Deny, Pattern: "**.allowed.test", Origin: netfilter.Origin{Source: "user"}}
	w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{public}, nil })
	set := func(rules ...netfilter.Rule) {
		p, _, err := netfilter.Compile(netfilter.Spec{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		w.SetPolicy(p)
	}
	for _, rules := range [][]netfilter.Rule{{allow, deny}, {deny, allow}} {
		set(rules...)
		w.guest.resolve("good.allowed.test")
		if m := w.guest.ask("bad.allowed.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("%v", m)
		}
	}
	for _, rules := range [][]netfilter.Rule{{allow, equal}, {equal, allow}} {
		set(rules...)
		if m := w.guest.ask("good.allowed.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("between equals: %v", m)
		}
	}
}
