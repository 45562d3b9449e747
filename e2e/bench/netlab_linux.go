package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The laboratory's world. The server's address is a public one on the namespace's loopback,
// so that every network reaches it in its ordinary way, with its filter.
const (
	ours         = "sbx"
	serverName   = "server.example.com"
	namesBelow   = "names.example.com"
	serverAddr   = "93.184.215.14"
	resolverAddr = "127.0.0.53"
	labLink      = "lab0" // passt wants an interface with a default route
	guestMAC     = "52:54:00:01:02:03"
	sinkPort     = 5001
	sourcePort   = 5002
	echoPort     = 5003
	tlsPort      = 443
)

// lab conducts the measurement.
type lab struct {
	dir, gvproxy string
	samples      int
	started      int
	series       map[string]map[string][]float64 // by row and peer
	order        []metric
}

// metric is a row to be.
type metric struct{ name, unit, better string }

func runLab(ctx context.Context, args []string) error {
	l := &lab{series: map[string]map[string][]float64{}}
	flags := flag.NewFlagSet(labWord, flag.ContinueOnError)
	flags.StringVar(&l.dir, "dir", "", "for sockets")
	flags.StringVar(&l.gvproxy, "gvproxy", "", "path of gvproxy")
	flags.IntVar(&l.samples, "samples", 3, "rounds")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := l.build(ctx); err != nil {
		return fmt.Errorf("build the network: %w", err)
	}
	err := l.measure(ctx)
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(l.rows()))
}

// build makes the namespace a host: addresses, a resolver and servers.
func (l *lab) build(ctx context.Context) error {
	limit := unix.Rlimit{Cur: 8192, Max: 8192}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: labLink}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(tap); err != nil {
		return fmt.Errorf("add a TAP: %w", err)
	}
	server, err1 := netlink.ParseAddr(serverAddr + "/32")
	outside, err2 := netlink.ParseAddr("192.0.2.2/24")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, server), netlink.AddrAdd(tap, outside), netlink.LinkSetUp(tap),
		netlink.RouteAdd(&netlink.Route{LinkIndex: tap.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)})); err != nil {
		return err
	}
	conf := filepath.Join(l.dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+resolverAddr+"\n"), 0o644); err != nil {
		return err
	}
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, "")); err != nil {
		return fmt.Errorf("mount resolv.conf: %w", err)
	}
	return l.serve(ctx)
}

func (l *lab) serve(ctx context.Context) error {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp", resolverAddr+":53")
	if err != nil {
		return err
	}
	resolver := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(resolve)}
	go resolver.ActivateAndServe() //nolint:errcheck // it ends with the process
	for port, handle := range map[int]func(net.Conn){sinkPort: sink, sourcePort: source, echoPort: echoes, tlsPort: echoes} {
		listener, err := config.Listen(ctx, "tcp", fmt.Sprintf("%s:%d", serverAddr, port))
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { defer conn.Close(); handle(conn) }()
			}
		}()
	}
	return nil
}

// resolve gives every name the server's address.
func resolve(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(serverAddr)}}
	}
	_ = w.WriteMsg(m)
}

func echoes(c net.Conn) { _, _ = io.Copy(c, c) }

func sink(c net.Conn) {
	n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	_, _ = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func source(c net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// measure takes every sample of every peer in turn, so that a busy moment of the machine
// meets all of them.
func (l *lab) measure(ctx context.Context) error {
	for range l.samples {
		for _, mtu := range []int{1500, 4000, 65520} {
			for _, p := range peers() {
				err := l.visit(ctx, p, mtu)
				if err != nil && p.name != ours {
					// A peer that breaks off has a sample less; the old passt of Debian 12 resets some uploads.
					fmt.Fprintf(os.Stderr, "bench: %s, MTU %d: %v\n", p.name, mtu, err)
				} else if err != nil {
					return fmt.Errorf("%s, MTU %d: %w", p.name, mtu, err)
				}
			}
		}
	}
	return nil
}

func (l *lab) visit(ctx context.Context, p peer, mtu int) error {
	s, err := p.up(ctx, l, mtu)
	defer s.stop()
	if err != nil {
		return err
	}
	for _, direction := range []string{"up", "down"} {
		if err := l.throughput(p, s, direction, mtu); err != nil {
			return err
		}
	}
	if mtu != 65520 {
		return nil
	}
	// A raw port is dialled before the guest's connection is answered, its name resolved anew; on
	// 443 we answer first, because the server's name must be heard before anything is dialled.
	latencies := []struct{ op, name string }{
		{"connect", "network: connect to port 443"},
		{"echo", "network: connect to a raw port, a byte there and back"},
		{"dns", "network: DNS answer, a new name each"},
	}
	if _, err := s.do(order{Op: "idle", N: 1000}); err != nil {
		return err
	}
	mib, err := s.resident()
	if err != nil {
		return err
	}
	l.add(p, metric{"network: memory with 1000 idle connections", "MiB", lower}, mib)
	if _, err := s.do(order{Op: "close"}); err != nil {
		return err
	}
	for _, latency := range latencies {
		r, err := s.do(order{Op: latency.op, N: 50})
		if err != nil {
			return err
		}
		l.add(p, metric{latency.name, "ms", lower}, median(r.Samples))
	}
	return nil
}

func (l *lab) throughput(p peer, s *side, direction string, mtu int) error {
	before, err := s.cpu()
	if err != nil {
		return err
	}
	r, err := s.do(order{Op: direction, For: time.Second})
	if err != nil {
		return err
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	l.add(p, metric{fmt.Sprintf("network: %s, MTU %d", direction, mtu), "Mbit/s", higher}, float64(r.Bytes)*8/1e6/r.Took.Seconds())
	l.add(p, metric{fmt.Sprintf("network: CPU per GB %s, MTU %d", direction, mtu), "s", lower}, (after-before).Seconds()*1e9/float64(r.Bytes))
	return nil
}

func (l *lab) add(p peer, m metric, value float64) {
	if l.series[m.name] == nil {
		l.series[m.name] = map[string][]float64{}
	}
	if !slices.Contains(l.order, m) {
		l.order = append(l.order, m)
	}
	l.series[m.name][p.name] = append(l.series[m.name][p.name], value)
}

// rows gives a row for each metric and peer.
func (l *lab) rows() []row {
	var rows []row
	for _, m := range l.order {
		for _, p := range peers()[1:] {
			mine, theirs := l.series[m.name][ours], l.series[m.name][p.name]
			if len(mine) == 0 || len(theirs) == 0 {
				continue
			}
			r := compare(m.name, m.unit, mine, p.name, theirs)
			r.Better = m.better
			rows = append(rows, r)
		}
	}
	return rows
}
