package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// client is what runs in the guest.
type client struct {
	dns, server string
	addr        netip.Addr // of the server, as the guest's network calls it
	names       int        // asked so far, each once
	open        []net.Conn
}

// runGuest is the guest: a kernel of its own behind a TAP, whose frames go to the network
// as QEMU's stream socket would carry them; it does what it is ordered on stdin.
func runGuest(args []string) error {
	flags := flag.NewFlagSet(guestWord, flag.ContinueOnError)
	mtu := flags.Int("mtu", 1500, "of the TAP")
	addr := flags.String("addr", "", "of the guest; without one the network makes the TAP")
	via := flags.String("via", "", "gateway")
	c := &client{}
	flags.StringVar(&c.dns, "dns", "", "resolver")
	flags.StringVar(&c.server, "server", "", "name or address of the server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *addr != "" {
		if err := guestLink(*mtu, *addr, *via, os.NewFile(3, "link")); err != nil {
			return fmt.Errorf("guest: %w", err)
		}
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil // the lab has gone
		} else if err != nil {
			return err
		}
		r, err := c.do(o)
		if err != nil {
			r.Err = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// guestLink makes the TAP, gives it its address and starts copying frames.
func guestLink(mtu int, addr, via string, link *os.File) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("tap0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make a TAP: %w", err)
	}
	mac, err := net.ParseMAC(guestMAC)
	if err != nil {
		return err
	}
	tap, err := netlink.LinkByName("tap0")
	if err != nil {
		return err
	}
	where, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetHardwareAddr(tap, mac), netlink.LinkSetMTU(tap, mtu), netlink.LinkSetTxQLen(tap, 10_000),
		netlink.AddrAdd(tap, where), netlink.LinkSetUp(tap), netlink.RouteAdd(&netlink.Route{LinkIndex: tap.Attrs().Index, Gw: net.ParseIP(via)}))
	if err != nil {
		return fmt.Errorf("configure the TAP: %w", err)
	}
	wire := int(link.Fd())
	if err := unix.SetNonblock(wire, false); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	go tapToWire(fd, link)
	go wireToTap(link, fd)
	return nil
}

// tapToWire sends the frames that are there with one call, and waits for more in poll.
func tapToWire(tap int, wire io.Writer) {
	const most = 256 << 10
	buf := make([]byte, most+70_000)
	for {
		used := 0
		for used < most {
			n, err := unix.Read(tap, buf[used+4:])
			if err != nil {
				break
			}
			binary.BigEndian.PutUint32(buf[used:], uint32(n))
			used += 4 + n
		}
		if used == 0 {
			fds := []unix.PollFd{{Fd: int32(tap), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			continue
		}
		if _, err := wire.Write(buf[:used]); err != nil {
			return
		}
	}
}

func wireToTap(wire io.Reader, tap int) {
	in := bufio.NewReaderSize(wire, 256<<10)
	frame := make([]byte, 70_000)
	for {
		if _, err := io.ReadFull(in, frame[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(frame)
		if int(n) > len(frame) {
			return
		}
		if _, err := io.ReadFull(in, frame[:n]); err != nil {
			return
		}
		_, _ = unix.Write(tap, frame[:n]) // a frame that the kernel refuses is lost, as on any wire
	}
}

func (c *client) do(o order) (result, error) {
	switch o.Op {
	case "ready":
		return c.ready()
	case "up":
		return c.upload(o)
	case "down":
		return c.download(o)
	case "connect":
		ms, err := sample(o.N, func() error {
			conn, err := c.dial(tlsPort)
			if err == nil {
				c.open = append(c.open, conn) // closing is not what is measured
			}
			return err
		})
		return result{Samples: ms}, err
	case "echo":
		ms, err := sample(o.N, c.echo)
		return result{Samples: ms}, err
	case "close":
		for _, conn := range c.open {
			conn.Close()
		}
		c.open = nil
		return result{}, nil
	case "dns":
		ms, err := sample(o.N, func() error {
			c.names++
			_, err := c.resolve(fmt.Sprintf("n%d-%d.%s", os.Getpid(), c.names, namesBelow))
			return err
		})
		return result{Samples: ms}, err
	case "idle":
		for range o.N {
			conn, err := c.dial(echoPort)
			if err == nil {
				err = pingPong(conn)
			}
			if err != nil {
				return result{}, fmt.Errorf("connection %d: %w", len(c.open)+1, err)
			}
			c.open = append(c.open, conn)
		}
		return result{}, nil
	}
	return result{}, fmt.Errorf("%q is no order", o.Op)
}

// ready waits until the network serves, and learns the server's address.
func (c *client) ready() (r result, err error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c.addr, err = netip.ParseAddr(c.server); err != nil {
			c.addr, err = c.resolve(c.server)
		}
		if err == nil {
			if err = c.echo(); err == nil {
				return r, nil
			}
		}
	}
	return r, err
}

func (c *client) resolve(name string) (netip.Addr, error) {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(query, net.JoinHostPort(c.dns, "53"))
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s: %s", name, dns.RcodeToString[answer.Rcode])
}

func (c *client) dial(port int) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(c.addr, uint16(port)).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// echo connects, and sends a byte there and back, because some networks answer a
// connection before the server has.
func (c *client) echo() error {
	conn, err := c.dial(echoPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	return pingPong(conn)
}

func pingPong(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := []byte{1}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, b)
	return err
}

// upload sends for a while, and counts until the server has said how much came.
func (c *client) upload(o order) (result, error) {
	conn, err := c.dial(sinkPort)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	buf := make([]byte, 256<<10)
	start := time.Now()
	_ = conn.SetDeadline(start.Add(o.For + 20*time.Second))
	for time.Since(start) < o.For {
		if _, err := conn.Write(buf); err != nil {
			return result{}, err
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return result{}, err
	}
	var count [8]byte
	_, err = io.ReadFull(conn, count[:])
	return result{Bytes: int64(binary.BigEndian.Uint64(count[:])), Took: time.Since(start)}, err
}

func (c *client) download(o order) (result, error) {
	conn, err := c.dial(sourcePort)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	buf := make([]byte, 256<<10)
	var r result
	start := time.Now()
	_ = conn.SetDeadline(start.Add(o.For + 20*time.Second))
	for time.Since(start) < o.For {
		n, err := conn.Read(buf)
		if err != nil {
			return r, err
		}
		r.Bytes += int64(n)
	}
	r.Took = time.Since(start)
	return r, nil
}
