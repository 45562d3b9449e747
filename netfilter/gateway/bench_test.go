package gateway

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// BenchmarkGateway moves bytes between the guest's stack and a server on loopback,
// both ways, by the size of the guest's frames.
func BenchmarkGateway(b *testing.B) {
	const chunk = 1 << 20
	for _, mtu := range []int{1500, 4000, 65520} {
		b.Run(fmt.Sprintf("up/%d", mtu), func(b *testing.B) {
			w := newWorld(b, mtu)
			received := make(chan int64)
			w.net.serve(b, 22, func(c net.Conn) { n, _ := io.Copy(io.Discard, c); received <- n })
			c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
			_ = c.SetDeadline(time.Time{})
			buf := make([]byte, chunk)
			b.SetBytes(chunk)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.CloseWrite()
			if n := <-received; n < chunk {
				b.Fatalf("%d bytes arrived", n)
			}
		})
		b.Run(fmt.Sprintf("down/%d", mtu), func(b *testing.B) {
			w := newWorld(b, mtu)
			w.net.serve(b, 22, func(c net.Conn) { _, _ = io.CopyBuffer(c, zeros{}, make([]byte, chunk)) })
			c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
			_ = c.SetDeadline(time.Time{})
			buf := make([]byte, chunk)
			b.SetBytes(chunk)
			for b.Loop() {
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
			w.SetPolicy(policy(b))
		})
	}
}

// BenchmarkConnect is the price of a name and a connection to it.
func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, 0)
	w.net.serve(b, 22, echo)
	for b.Loop() {
		addr := w.guest.resolve("github.com")
		c, err := w.guest.dial(addr, 22)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

var _ Resolver = (*net.Resolver)(nil)
var _ Dialer = (*net.Dialer)(nil)
