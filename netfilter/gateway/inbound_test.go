package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestJoinedSegments moves bytes both ways at sizes where segments are joined, also when
// frames are padded as short ones are on a real wire: padding is no data.
func TestJoinedSegments(t *testing.T) {
	for name, tc := range map[string]struct{ mtu, pad int }{"1500": {1500, 0}, "padded": {1500, 46}, "4000": {4000, 0}, "65520": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.mtu)
			if tc.pad > 0 { // full segments are left: they would be too long
				w.guest.ep.SetMTU(uint32(tc.mtu + etherLen - tc.pad))
				w.guest.pad.Store(int32(tc.pad))
			}
			data := make([]byte, 8<<20)
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(data)
			want := sha256.Sum256(data)
			w.net.serve(t, 22, func(c net.Conn) {
				got := sha256.New()
				_, _ = io.Copy(got, c)
				_, _ = c.Write(got.Sum(nil))
				_, _ = c.Write(data)
			})
			c := w.guest.mustDial(w.guest.resolve("github.com"), 22)
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			for rest := data; len(rest) > 0; { // uneven writes: segments of all sizes
				n := min(len(rest), 1+rand.IntN(100_000))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(c)
			if err != nil || len(back) != sha256.Size+len(data) {
				t.Fatalf("%d bytes back, %v", len(back), err)
			}
			if !bytes.Equal(back[:sha256.Size], want[:]) || !bytes.Equal(back[sha256.Size:], data) {
				t.Error("the bytes changed on their way")
			}
		})
	}
}

// TestManyFlowsAtOnce: more flows than the joining engine has places leave none behind.
func TestManyFlowsAtOnce(t *testing.T) {
	w := newWorld(t, 1500)
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	conns := make([]net.Conn, 100)
	for i := range conns {
		conns[i] = w.guest.mustDial(addr, 22)
	}
	message := bytes.Repeat([]byte("x"), 5000)
	for _, c := range conns {
		if _, err := c.Write(message); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range conns {
		if _, err := io.ReadFull(c, make([]byte, len(message))); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

// TestWindowScale: the scale that the handshake offers reaches the widest buffer. A smaller
// one held uploads to 128 KiB in flight.
func TestWindowScale(t *testing.T) {
	w := newWorld(t, 0)
	w.net.serve(t, 22, echo)
	addr := w.guest.resolve("github.com")
	scale := 0
	w.guest.mustDial(addr, 22)
	heard := w.guest.hears(5*time.Second, func(f []byte) bool {
		if len(f) < 54 || binary.BigEndian.Uint16(f[12:]) != typeIPv4 || f[23] != protoTCP {
			return false
		}
		h := header.TCP(f[34:])
		if h.Flags() != header.TCPFlagSyn|header.TCPFlagAck {
			return false
		}
		scale = header.ParseSynOptions(h.Options(), true).WS
		return true
	})
	if !heard || 65535<<scale < wideBuffer/2 {
		t.Errorf("heard %v, scale %d: a window of %d bytes", heard, scale, 65535<<scale)
	}
}
