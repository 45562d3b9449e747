package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sbx-vm/sbx/netfilter"
)

// refusedDNS asserts an answer without data, and that the resolver was not asked.
func refusedDNS(t *testing.T, w *world, name string, qtype uint16, rcode int) {
	t.Helper()
	m := w.guest.ask(name, qtype)
	if m.Rcode != rcode || len(m.Answer) != 0 {
		t.Errorf("%s %s: %v", dns.Type(qtype), name, m)
	}
	if q := w.net.questions(); len(q) != 0 {
		t.Errorf("%s %s: asked upstream for %v", dns.Type(qtype), name, q)
	}
}

func dnsRows() []row {
	return []row{
		{"D1_TXT_tunnel", func(t *testing.T, w *world) {
			refusedDNS(t, w, "mfrggzdfmy.t.evil.test", dns.TypeTXT, dns.RcodeRefused)
			w.deniedFor(t, reasonType)
		}},
		{"D2_A_record_exfiltration", func(t *testing.T, w *world) {
			refusedDNS(t, w, "deadbeef.evil.test", dns.TypeA, dns.RcodeNameError)
			w.deniedFor(t, netfilter.ReasonNoRule)
			m := w.guest.ask("deadbeef.evil.test", dns.TypeA)
			ede, ok := m.IsEdns0().Option[0].(*dns.EDNS0_EDE)
			if !ok || ede.InfoCode != dns.ExtendedErrorCodeFiltered || !strings.Contains(ede.ExtraText, "sbx policy allow deadbeef.evil.test") {
				t.Errorf("extended error %v", m)
			}
		}},
		{"D3_labels_under_an_allowed_wildcard", func(t *testing.T, w *world) {
			start := time.Now()
			for i := range lookupBurst + 100 {
				w.guest.ask(fmt.Sprintf("x%d.allowed.test", i), dns.TypeA)
			}
			w.boundedLookups(t, start)
		}},
		{"D4_NULL", func(t *testing.T, w *world) { refusedDNS(t, w, "x.example.com", dns.TypeNULL, dns.RcodeRefused) }},
		{"D5_other_types", func(t *testing.T, w *world) {
			for _, qtype := range []uint16{dns.TypeCNAME, dns.TypeMX, dns.TypeNS, dns.TypeSRV, dns.TypeCAA, dns.TypeNAPTR, dns.TypeANY, 65280} {
				refusedDNS(t, w, "example.com", qtype, dns.RcodeRefused)
				refusedDNS(t, w, "evil.test", qtype, dns.RcodeRefused)
			}
		}},
		{"D6_HTTPS_and_SVCB", func(t *testing.T, w *world) {
			refusedDNS(t, w, "example.com", dns.TypeHTTPS, dns.RcodeRefused)
			refusedDNS(t, w, "example.com", dns.TypeSVCB, dns.RcodeRefused)
		}},
		{"D7_name_lengths", nameLengths},
		{"D8_compression_loops", compressionLoops},
		{"D11_only_the_name_asked_is_given_an_address", func(t *testing.T, w *world) {
			w.guest.resolve("example.com")
			if n := w.names.Len(); n != 1 {
				t.Errorf("%d names", n)
			}
		}},
		{"D12_upstream_failure", func(t *testing.T, w *world) {
			w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("too many CNAMEs") })
			if m := w.guest.ask("example.com", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
				t.Errorf("%v", m)
			}
		}},
		{"D14_TTL_is_our_own", func(t *testing.T, w *world) {
			if ttl := w.guest.ask("example.com", dns.TypeA).Answer[0].Header().Ttl; ttl != 60 {
				t.Errorf("TTL %d", ttl)
			}
		}},
		{"D15_huge_answer", func(t *testing.T, w *world) {
			w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) { return make([]netip.Addr, 4000), nil })
			if m := w.guest.ask("example.com", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
				t.Errorf("%v", m)
			}
		}},
		{"D16_query_flood", queryFlood},
		{"D17_slow_upstream", slowUpstream},
		{"D19_answers_from_the_guest", func(t *testing.T, w *world) {
			m := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
			m.Response = true
			b, _ := m.Pack()
			w.guest.inject(ipFrame(protoUDP, gatewayAddr, udpPacket(53, 53, b)))
			w.guest.resolve("www.allowed.test") // the link is in order, so the spoof was seen before
			if q := w.net.questions(); len(q) != 1 || w.names.Len() != 1 {
				t.Errorf("asked %v, %d names", q, w.names.Len())
			}
		}},
		{"D22_DNS_over_TCP", dnsOverTCP},
		{"D23_spellings", func(t *testing.T, w *world) {
			if a, b := w.guest.resolve("ExAmPlE.CoM."), w.guest.resolve("example.com"); a != b {
				t.Errorf("%v and %v", a, b)
			}
			for _, name := range []string{`example\.com.`, `exam\000ple.com.`, `www\.x.allowed.test.`, "a_b.allowed.test"} {
				if m := w.guest.ask(name, dns.TypeA); m.Rcode != dns.RcodeNameError {
					t.Errorf("%s: %v", name, m)
				}
			}
		}},
		{"D24_local_names", func(t *testing.T, w *world) {
			for _, name := range []string{"localhost", "printer.local", "host.docker.internal", "router", "1.0.0.127.in-addr.arpa", "."} {
				refusedDNS(t, w, name, dns.TypeA, dns.RcodeNameError)
			}
		}},
		{"AAAA_is_empty", func(t *testing.T, w *world) {
			if m := w.guest.ask("example.com", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
				t.Errorf("%v", m)
			}
		}},
		{"Name_that_does_not_exist", func(t *testing.T, w *world) {
			if m := w.guest.ask("none.allowed.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("%v", m)
			}
		}},
	}
}

func nameLengths(t *testing.T, w *world) {
	label := strings.Repeat("a", 63)
	longest := strings.Join([]string{label, label, label, strings.Repeat("b", 61)}, ".")
	if m := w.guest.ask(longest, dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("253 bytes: %v", m)
	}
	q := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for range 5 { // 5*64+1 bytes, over the 255 of RFC 1035
		q = append(append(q, 63), label...)
	}
	wantFormErr(t, w, append(q, 0, 0, 1, 0, 1))
}

func wantFormErr(t *testing.T, w *world, q []byte) {
	t.Helper()
	b, err := w.guest.udp(gatewayAddr, 53, q)
	if err != nil || len(b) < 12 || int(b[3]&0xf) != dns.RcodeFormatError {
		t.Errorf("query %x: answer %x, %v", q, b, err)
	}
}

func compressionLoops(t *testing.T, w *world) {
	head := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, name := range [][]byte{{0xc0, 12}, {0xc0, 14, 0xc0, 12}, {0xc0, 0xff}, {1, 'a', 0xc0, 12}, {0x40, 0}} {
		wantFormErr(t, w, append(append(append([]byte{}, head...), name...), 0, 1, 0, 1))
	}
	wantFormErr(t, w, head)
	two := append([]byte{}, head...)
	two[5] = 2
	wantFormErr(t, w, append(two, 1, 'a', 0, 0, 1, 0, 1, 1, 'b', 0, 0, 1, 0, 1))
}

// queryFlood sends denied and allowed names faster than they are served, while
// a connection goes on.
func queryFlood(t *testing.T, w *world) {
	w.net.serve(t, 22, echo)
	c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
	start := time.Now()
	for i := range 20_000 {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("q%d.%s.", i, [2]string{"evil.test", "allowed.test"}[i%2]), dns.TypeA)
		b, _ := q.Pack()
		w.guest.inject(ipFrame(protoUDP, gatewayAddr, udpPacket(uint16(1024+i%60000), 53, b)))
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("a connection beside the flood: %v", err)
	}
	w.boundedLookups(t, start)
}

// boundedLookups asserts that no more names went upstream since start than the limit lets through, whatever time it took.
func (w *world) boundedLookups(t *testing.T, start time.Time) {
	t.Helper()
	if n, most := len(w.net.questions()), lookupBurst+lookupRate*(2+int(time.Since(start).Seconds())); n > most {
		t.Errorf("%d names went upstream, more than %d", n, most)
	}
}

func slowUpstream(t *testing.T, w *world) {
	asked := make(chan struct{})
	var over atomic.Bool
	w.net.resolveWith(func(ctx context.Context, name string) ([]netip.Addr, error) {
		if name == "example.com" {
			close(asked)
			<-ctx.Done()
			over.Store(true)
			return nil, ctx.Err()
		}
		return []netip.Addr{public}, nil
	})
	start, done := time.Now(), make(chan int)
	go func() { done <- w.guest.ask("example.com", dns.TypeA).Rcode }()
	<-asked
	w.guest.resolve("github.com")
	if over.Load() {
		t.Error("another name waited for the slow one")
	}
	if rcode := <-done; rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %d", rcode)
	}
	if took := time.Since(start); took > soon {
		t.Errorf("SERVFAIL after %v", took)
	}
}

func dnsOverTCP(t *testing.T, w *world) {
	c := w.guest.mustDial(gatewayAddr, 53)
	conn := &dns.Conn{Conn: c}
	for range 50 { // pipelined in the sense of RFC 7766: one after the other on one connection
		for name, rcode := range map[string]int{"evil.test.": dns.RcodeNameError, "example.com.": dns.RcodeSuccess} {
			if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			if m, err := conn.ReadMsg(); err != nil || m.Rcode != rcode {
				t.Fatalf("%s: %v, %v", name, m, err)
			}
		}
	}
	if _, err := c.Write(binary.BigEndian.AppendUint16(nil, maxQuery+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("an oversized length prefix was answered")
	}
	for range maxDNSConns + 4 {
		if c, err := w.guest.dial(gatewayAddr, 53); err == nil {
			defer c.Close()
		}
	}
	if q := w.guest.ask("example.com", dns.TypeA); q.Rcode != dns.RcodeSuccess {
		t.Errorf("UDP beside full TCP: %v", q)
	}
}

func bypassRows() []row {
	elsewhere := netip.MustParseAddr("8.8.8.8")
	tcpReset := func(addr netip.Addr, port uint16, reason string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.net.serve(t, port, echo)
			start := time.Now()
			if c, err := w.guest.dial(addr, port); err == nil {
				c.Close()
				t.Error("connected")
			}
			if took := time.Since(start); took > soon {
				t.Errorf("refused after %v", took)
			}
			w.deniedFor(t, reason)
			w.quiet(t)
		}
	}
	udpRefused := func(addr netip.Addr, port uint16) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.guest.inject(ipFrame(protoUDP, addr, udpPacket(40000, port, []byte("datagram"))))
			unreachable := isICMP(3)
			if !w.guest.hears(soon, func(f []byte) bool { return unreachable(f) && f[35] == 3 && addr4(f[26:30]) == addr }) {
				t.Error("no port unreachable")
			}
			w.deniedFor(t, reasonUDP)
		}
	}
	return []row{
		{"R1_UDP_53_elsewhere", udpRefused(elsewhere, 53)},
		{"R2_TCP_53_elsewhere", tcpReset(elsewhere, 53, reasonUnknown)},
		{"R3_DNS_over_TLS", tcpReset(netip.MustParseAddr("1.1.1.1"), 853, reasonUnknown)},
		{"R4_DNS_over_QUIC", udpRefused(elsewhere, 853)},
		{"R5_DNS_over_HTTPS", func(t *testing.T, w *world) { refusedDNS(t, w, "dns.google", dns.TypeA, dns.RcodeNameError) }},
		{"R7_multicast_and_broadcast", func(t *testing.T, w *world) {
			for _, a := range []string{"224.0.0.251", "224.0.0.252", "255.255.255.255", "100.64.0.3"} {
				w.guest.inject(ipFrame(protoUDP, netip.MustParseAddr(a), udpPacket(5353, 5353, []byte("x"))))
			}
			w.dropped(t, dropDestinationIP, 4)
		}},
		{"R8_another_address_of_the_subnet", func(t *testing.T, w *world) {
			w.guest.inject(ipFrame(protoUDP, netip.MustParseAddr("100.64.0.0"), udpPacket(5353, 53, []byte("x"))))
			w.dropped(t, dropDestinationIP, 1)
		}},
		{"R9_address_never_given_out", func(t *testing.T, w *world) {
			w.guest.resolve("example.com")
			tcpReset(public, 443, reasonUnknown)(t, w)
		}},
		{"P4_QUIC", func(t *testing.T, w *world) { udpRefused(w.guest.resolve("example.com"), 443)(t, w) }},
		{"P5_arbitrary_UDP", udpRefused(elsewhere, 51820)},
		{"G1_W107_gateway_has_no_other_service", tcpReset(gatewayAddr, 80, reasonGateway)},
		{"G7_no_admin_port", tcpReset(gatewayAddr, 6060, reasonGateway)},
	}
}

// specialRows are the addresses that an allowed name must not lead to.
func specialRows() []row {
	var rows []row
	for number, addrs := range map[string]string{
		"S1": "127.0.0.1 127.8.8.8", "S2": "10.0.0.1 172.16.0.1 192.168.1.1", "S3": "169.254.169.254",
		"S4": "169.254.170.2 168.63.129.16", "S5": "fd00:ec2::254 fc00::1", "S6": "100.100.100.200 100.64.0.1",
		"S7": "198.18.0.1 192.0.0.8 192.0.2.1 198.51.100.1 203.0.113.1 240.0.0.1", "S9": "224.0.0.1 239.255.255.250 255.255.255.255",
		"S10": "::1 ::", "S11": "::ffff:127.0.0.1 ::ffff:10.0.0.1", "S13": "64:ff9b::7f00:1 64:ff9b:1::1", "S14": "2002:7f00:1::1",
		"S16": "fe80::1%eth0 fec0::1", "S17": "fd7a:115c:a1e0:b1a:0:1:7f00:1",
	} {
		rows = append(rows, row{number + "_rebinding", func(t *testing.T, w *world) {
			for addr := range strings.FieldsSeq(addrs) {
				rebinding(t, w, netip.MustParseAddr(addr))
			}
		}})
	}
	return append(rows,
		row{"S18_the_hosts_own_address", func(t *testing.T, w *world) {
			w.cfg.HostNet = func() netfilter.HostNet { return netfilter.HostNet{Addrs: []netip.Addr{public}} }
			rebinding(t, w, public)
		}},
		row{"S21_answer_flips_between_question_and_connection", answerFlips},
		row{"S22_every_connection_resolves_anew", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			addr := w.guest.resolve("github.com")
			w.guest.mustDial(addr, 22)
			w.net.answer("github.com", netip.MustParseAddr("10.0.0.1"))
			if _, err := w.guest.dial(addr, 22); err == nil {
				t.Error("an address that the name no longer has was reached")
			}
		}},
	)
}

// rebinding asserts that a name with one bad address among good ones is refused whole.
func rebinding(t *testing.T, w *world, bad netip.Addr) {
	t.Helper()
	w.net.resolveWith(func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("1.1.1.1"), bad}, nil
	})
	if m := w.guest.ask("github.com", dns.TypeA); m.Rcode != dns.RcodeNameError || len(m.Answer) != 0 {
		t.Errorf("%v: %v", bad, m)
	}
	w.deniedFor(t, netfilter.ReasonAddressClass)
}

func answerFlips(t *testing.T, w *world) {
	addr := w.guest.resolve("github.com")
	w.net.serve(t, 22, echo)
	w.net.answer("github.com", netip.MustParseAddr("127.0.0.1"))
	if c, err := w.guest.dial(addr, 22); err == nil {
		c.Close()
		t.Error("connected")
	}
	w.deniedFor(t, netfilter.ReasonAddressClass)
	w.quiet(t)
}
