package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/sbx-vm/sbx/netfilter"
)

// resets asserts that a port of an allowed name is refused at once, and nothing dialled.
func resets(name string, ports ...uint16) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		addr := w.guest.resolve(name)
		for _, port := range ports {
			w.net.serve(t, port, echo)
			start := time.Now()
			if c, err := w.guest.dial(addr, port); err == nil {
				c.Close()
				t.Errorf("port %d connected", port)
			}
			if took := time.Since(start); took > soon {
				t.Errorf("port %d refused after %v", port, took)
			}
		}
		w.deniedFor(t, netfilter.ReasonPort)
		w.quiet(t)
	}
}

func portRows() []row {
	return []row{
		{"P1_other_ports", resets("example.com", 8443, 22, 8080)},
		{"P1_web_ports_of_a_raw_rule", resets("github.com", 443)},
		{"P6_FTP", resets("example.com", 21)},
		{"P7_SMTP", resets("example.com", 25, 465, 587)},
		{"P8_ping_of_the_gateway_alone", func(t *testing.T, w *world) {
			w.guest.inject(ipFrame(protoICMP, gatewayAddr, echoRequest(56)))
			if !w.guest.hears(soon, isICMP(0)) {
				t.Error("the gateway does not answer a ping")
			}
			w.guest.inject(ipFrame(protoICMP, w.guest.resolve("example.com"), echoRequest(56)))
			w.dropped(t, dropICMP, 1)
		}},
		{"P11_port_0", func(t *testing.T, w *world) {
			w.guest.inject(ipFrame(protoTCP, public, synPacket(0, public, 0)))
			w.guest.inject(ipFrame(protoUDP, public, udpPacket(0, 0, nil)))
			w.guest.resolve("example.com")
			for _, name := range []string{"example.com", "github.com"} { // allowed, on other ports
				addr := w.guest.resolve(name)
				w.guest.inject(ipFrame(protoTCP, addr, synPacket(2000, addr, 0)))
				if c, err := w.guest.dial(addr, 0); err == nil {
					c.Close()
					t.Errorf("%s: port 0 connected", name)
				}
			}
			w.deniedFor(t, netfilter.ReasonPort)
			w.quiet(t)
		}},
	}
}

func linkRows() []row {
	return []row{
		{"L_malformed_frames_are_dropped_silently", func(t *testing.T, w *world) {
			for _, c := range badFrames() {
				w.guest.inject(c.frame)
			}
			w.guest.inject(bytes.Repeat([]byte{1}, 66_000))
			w.guest.resolve("example.com") // the link lives
			var total uint64
			for _, n := range w.Drops() {
				total += n
			}
			if want := uint64(len(badFrames()) + 1); total < want {
				t.Errorf("%d frames dropped, want %d: %v", total, want, w.Drops())
			}
		}},
		{"L7_MAC_spray", func(t *testing.T, w *world) {
			frame := ipFrame(protoUDP, gatewayAddr, udpPacket(1, 53, nil))
			for i := range 50_000 {
				frame[6], frame[7], frame[8] = 2, byte(i>>8), byte(i)
				w.guest.inject(frame)
			}
			w.dropped(t, dropSourceMAC, 50_000)
			w.guest.resolve("example.com")
		}},
		{"L11_length_prefix_of_4_GiB", endsLink([]byte{0xff, 0xff, 0xff, 0xff})},
		{"L11_length_prefix_over_QEMUs", endsLink([]byte{0, 1, 0x10, 1})},
		{"L11_partial_frame_then_stall", func(t *testing.T, w *world) {
			other := newWorld(t, 0)
			w.guest.raw([]byte{0, 0, 0, 60, 1, 2, 3})
			other.guest.resolve("example.com")
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}},
		{"L15_traceroute", func(t *testing.T, w *world) {
			f := ipFrame(protoTCP, public, synPacket(1000, public, 443))
			f[22] = 1 // TTL; the checksum mends itself by the same amount
			f[24], f[25] = 0, 0
			w.guest.inject(f)
			if w.guest.hears(200*time.Millisecond, isICMP(11)) {
				t.Error("time exceeded was answered")
			}
		}},
	}
}

func endsLink(prefix []byte) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		other := newWorld(t, 0)
		w.guest.raw(prefix)
		select {
		case <-w.Done():
		case <-time.After(soon):
			t.Error("the link lives")
		}
		other.guest.resolve("example.com")
	}
}

func serviceRows() []row {
	return []row{
		{"G4_names_of_the_host", func(t *testing.T, w *world) {
			for _, name := range []string{"host.containers.internal", "host.docker.internal", "gateway.docker.internal"} {
				refusedDNS(t, w, name, dns.TypeA, dns.RcodeNameError)
			}
		}},
		{"G5_split_horizon", func(t *testing.T, w *world) { rebinding(t, w, netip.MustParseAddr("10.1.2.3")) }},
		{"G6_metadata", func(t *testing.T, w *world) {
			if _, err := w.guest.dial(netip.MustParseAddr("169.254.169.254"), 80); err == nil {
				t.Error("connected")
			}
			w.deniedFor(t, reasonUnknown)
			w.quiet(t)
		}},
	}
}

func floodRows() []row {
	return []row{
		{"X1_half_open_flood", halfOpenFlood},
		{"X2_black_holes", blackHoles},
		{"X4_client_that_never_reads", neverReads},
		{"X5_connections_come_and_go", comeAndGo},
		{"X6_UDP_spray", func(t *testing.T, w *world) {
			for i := range 60_000 {
				w.guest.inject(ipFrame(protoUDP, public, udpPacket(uint16(i), uint16(i), []byte("x"))))
			}
			w.guest.resolve("example.com")
			if n := len(w.Denials(time.Time{})); n > maxDenials {
				t.Errorf("%d denials kept", n)
			}
		}},
		{"X7_echo_flood", func(t *testing.T, w *world) {
			frame := ipFrame(protoICMP, public, echoRequest(56))
			for range 50_000 {
				w.guest.inject(frame)
			}
			w.guest.resolve("example.com")
		}},
		{"X9_panic_in_one_connection", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			w.net.dialWith(func(context.Context, string) (net.Conn, error) { return panicConn{}, nil })
			bad, _ := w.guest.dial(w.guest.resolve("github.com"), 22)
			if bad != nil {
				_ = bad.SetDeadline(time.Now().Add(3 * time.Second))
				_, _ = bad.Write([]byte("x"))
				_, _ = bad.Read(make([]byte, 1))
				bad.Close()
			}
			w.net.dialWith(nil)
			roundTrip(t, w.guest.mustDial(w.guest.resolve("github.com"), 22))
		}},
		{"Connection_limit", func(t *testing.T, w *world) {
			for range maxFlows {
				if _, ok := w.flows.begin(w.ctx, netfilter.Request{Name: "example.com", Port: 443}, netfilter.Verdict{}); !ok {
					t.Fatal("refused below the limit")
				}
			}
			addr := w.guest.resolve("example.com")
			w.guest.inject(ipFrame(protoTCP, addr, synPacket(2000, addr, 443)))
			w.deniedFor(t, reasonLimit)
		}},
	}
}

// panicConn is a server's connection that panics when it is used.
type panicConn struct{ net.Conn }

func (panicConn) Read([]byte) (int, error)  { panic("read") }
func (panicConn) Write([]byte) (int, error) { panic("write") }
func (panicConn) Close() error              { return nil }

func roundTrip(t *testing.T, c *gonet.TCPConn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
		return
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func halfOpenFlood(t *testing.T, w *world) {
	w.net.serve(t, 22, echo)
	serveHTTP(t, w, http.NotFoundHandler())
	raw, web := w.guest.resolve("github.com"), w.guest.resolve("example.com")
	// The guest's own stack would reset what it did not open: these SYNs are from a
	// part of the port range whose answers the wire swallows.
	for i := range 10_000 {
		addr, port := web, uint16(80)
		if i%2 == 0 {
			addr, port = raw, 22
		}
		w.guest.inject(ipFrame(protoTCP, addr, synPacket(uint16(2000+i), addr, port)))
	}
	start := time.Now()
	roundTrip(t, w.guest.mustDial(raw, 22))
	// Three seconds on an idle machine (X1). What this tells from is the outage of 128 s that
	// handshakes without a bound have; a loaded machine is no failure.
	if took := time.Since(start); took > patient {
		t.Errorf("a connection beside the flood took %v", took)
	}
}

func blackHoles(t *testing.T, w *world) {
	w.net.resolveWith(func(_ context.Context, name string) ([]netip.Addr, error) { return []netip.Addr{public}, nil })
	w.SetPolicy(policy(t, "**.allowed.test:22/tcp", "github.com:22/tcp"))
	var hanging atomic.Int64
	open := func(ctx context.Context, address string) (net.Conn, error) {
		hanging.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.net.dialWith(open)
	hole := w.guest.resolve("hole.allowed.test")
	for i := range 1000 {
		w.guest.inject(ipFrame(protoTCP, hole, synPacket(uint16(2000+i), hole, 22)))
	}
	eventually(t, "dials that hang", func() bool { return hanging.Load() >= maxDialsPerName })
	if n := hanging.Load(); n > maxDialsPerName {
		t.Errorf("%d dials to one name", n)
	}
	w.net.serve(t, 22, echo)
	w.net.dialWith(nil)
	roundTrip(t, w.guest.mustDial(w.guest.resolve("github.com"), 22))
}

func neverReads(t *testing.T, w *world) {
	var sent atomic.Int64
	w.net.serve(t, 22, func(c net.Conn) {
		b := make([]byte, 1<<20)
		for {
			n, err := c.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	w.guest.mustDial(w.guest.resolve("github.com"), 22)
	last := int64(-1)
	eventually(t, "the server being held back", func() bool {
		was := last
		last = sent.Load()
		time.Sleep(200 * time.Millisecond)
		return last == was && last > 0
	})
	if last > 64<<20 {
		t.Errorf("%d bytes taken for a client that reads none", last)
	}
}

func comeAndGo(t *testing.T, w *world) {
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	for i := range 200 {
		c := w.guest.mustDial(addr, 22)
		if i%2 == 0 {
			roundTrip(t, c)
		}
		c.Close()
	}
	eventually(t, "all connections gone", func() bool {
		w.flows.mu.Lock()
		defer w.flows.mu.Unlock()
		return len(w.flows.open) == 0
	})
	if n := runtime.NumGoroutine(); n > 3000 {
		t.Errorf("%d goroutines", n)
	}
}

func policyRows() []row {
	return []row{
		{"C1_empty_list", func(t *testing.T, w *world) {
			w.SetPolicy(policy(t))
			refusedDNS(t, w, "example.com", dns.TypeA, dns.RcodeNameError)
		}},
		{"C5_revoke_with_live_connection", revokeLive},
		{"C5_revoke_keeps_what_is_still_allowed", func(t *testing.T, w *world) {
			w.net.serve(t, 22, echo)
			c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
			roundTrip(t, c)
			w.SetPolicy(policy(t, "github.com:22/tcp"))
			roundTrip(t, c)
		}},
		{"C5_revoke_while_dialling", revokeDialling},
		{"C10_gateway_dies", func(t *testing.T, w *world) {
			w.Close()
			if _, err := w.guest.dial(gatewayAddr, 53); err == nil {
				t.Error("something answers")
			}
		}},
		{"C14_two_sandboxes", func(t *testing.T, w *world) {
			other := newWorld(t, 0)
			other.net.serve(t, 22, echo)
			c := other.guest.mustDial(other.guest.resolve("github.com"), 22)
			w.SetPolicy(policy(t))
			roundTrip(t, c)
		}},
	}
}

func revokeLive(t *testing.T, w *world) {
	w.net.serve(t, 22, func(c net.Conn) { _, _ = io.Copy(c, zeros{}) })
	addr := w.guest.resolve("github.com")
	c := w.guest.mustDial(addr, 22)
	if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
		t.Fatal(err)
	}
	w.SetPolicy(policy(t, "example.com"))
	start := time.Now()
	_, err := io.Copy(io.Discard, c)
	if err == nil || !strings.Contains(err.Error(), "reset") || time.Since(start) > soon {
		t.Errorf("ended by %v after %v", err, time.Since(start))
	}
	if _, err := w.guest.dial(addr, 22); err == nil {
		t.Error("the address outlived its rule")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func revokeDialling(t *testing.T, w *world) {
	dialling := make(chan struct{})
	w.net.dialWith(func(ctx context.Context, _ string) (net.Conn, error) {
		close(dialling)
		<-ctx.Done()
		return nil, errors.New("cancelled")
	})
	addr, failed := w.guest.resolve("github.com"), make(chan error)
	go func() { _, err := w.guest.dial(addr, 22); failed <- err }()
	<-dialling
	w.SetPolicy(policy(t, "example.com"))
	select {
	case err := <-failed:
		if err == nil {
			t.Error("connected")
		}
	case <-time.After(soon):
		t.Error("still dialling")
		<-failed
	}
	w.deniedFor(t, reasonRevoked)
}
