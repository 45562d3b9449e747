package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxPrefix is the longest frame that QEMU's stream socket carries
	// (NET_BUFSIZE, net/stream.c). A longer prefix cannot be resynchronised.
	maxPrefix = 69632
	prefixLen = 4
	// sendQueueBytes bounds what waits for a QEMU that does not read (a stopped
	// machine). TCP sends again what does not fit, so a bound loses nothing.
	sendQueueBytes = 8 << 20
	// sendBatch is how many frames one system call carries at most; two
	// vectors a frame stay well under IOV_MAX (1024).
	sendBatch = 128
	// sendBuffer is the socket's: room for some batches, so that sender and QEMU work at once.
	sendBuffer = 4 << 20
	// readBuffer holds some frames of the largest size per system call. A frame is at most
	// an MTU and a header: it always fits.
	readBuffer = 256 << 10
)

// link is the gVisor link endpoint on QEMU's stream socket: frames with a
// 4-byte big-endian length before each (QEMU, "-netdev stream"). Every frame is
// judged before the stack sees it. Sending never blocks the stack: frames wait in a
// bounded queue for a goroutine of their own.
type link struct {
	conn   net.Conn
	filter frameFilter
	log    *slog.Logger
	mtu    uint32
	drops  [dropReasons]atomic.Uint64
	panics atomic.Uint64

	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	mu     sync.Mutex
	ready  *sync.Cond
	queue  []*stack.PacketBuffer
	queued int
	closed bool
}

func newLink(conn net.Conn, filter frameFilter, log *slog.Logger) *link {
	l := &link{conn: conn, filter: filter, log: log, mtu: uint32(filter.mtu)}
	l.ready = sync.NewCond(&l.mu)
	if c, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = c.SetWriteBuffer(sendBuffer) // a smaller one is slower, nothing else
	}
	return l
}

// receive delivers frames until the connection ends or loses its framing. Frames that
// came with one read are delivered together.
func (l *link) receive() error {
	in, batch := bufio.NewReaderSize(l.conn, readBuffer), newInbound(l)
	longest := l.filter.mtu + etherLen
	for {
		if !wholeFrame(in) {
			batch.flush()
		}
		prefix, err := in.Peek(prefixLen)
		if err != nil {
			return linkEnd(err)
		}
		size := binary.BigEndian.Uint32(prefix)
		if size > maxPrefix {
			return fmt.Errorf("frame of %d bytes: longer than the link carries", size)
		}
		if int(size) <= longest {
			frame, err := in.Peek(prefixLen + int(size))
			if err != nil {
				return linkEnd(err)
			}
			batch.add(frame[prefixLen:])
		} else {
			l.drops[dropLength].Add(1)
		}
		if _, err := in.Discard(prefixLen + int(size)); err != nil {
			return linkEnd(err)
		}
	}
}

// wholeFrame says whether the next frame can be had without waiting for the guest.
func wholeFrame(in *bufio.Reader) bool {
	if in.Buffered() < prefixLen {
		return false
	}
	prefix, err := in.Peek(prefixLen)
	return err == nil && uint64(in.Buffered()) >= prefixLen+uint64(binary.BigEndian.Uint32(prefix))
}

// linkEnd tells an orderly end, nil, from a broken one.
func linkEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return fmt.Errorf("read a frame: %w", err)
}

// send writes what the stack queued until the link is closed.
func (l *link) send() error {
	var vectors net.Buffers
	var prefixes [sendBatch][4]byte
	for {
		batch := l.take()
		if batch == nil {
			return nil
		}
		vectors = vectors[:0]
		for i, pkt := range batch {
			binary.BigEndian.PutUint32(prefixes[i][:], uint32(pkt.Size()))
			vectors = append(vectors, prefixes[i][:])
			vectors = append(vectors, pkt.AsSlices()...)
		}
		pending := vectors
		_, err := pending.WriteTo(l.conn)
		clear(vectors)
		for _, pkt := range batch {
			pkt.DecRef()
		}
		if err != nil {
			return linkEnd(err)
		}
	}
}

// take waits for frames to send; nil says that the link is closed.
func (l *link) take() []*stack.PacketBuffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.ready.Wait()
	}
	if l.closed {
		return nil
	}
	n := min(len(l.queue), sendBatch)
	batch := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	for _, pkt := range batch {
		l.queued -= pkt.Size()
	}
	return batch
}

// WritePackets queues frames; what does not fit is lost, as on any wire.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if l.queued+pkt.Size() > sendQueueBytes {
			break
		}
		l.queued += pkt.Size()
		l.queue = append(l.queue, pkt.IncRef())
		n++
	}
	l.ready.Signal()
	if n == 0 {
		return 0, &tcpip.ErrNoBufferSpace{}
	}
	return n, nil
}

// Close ends both directions. The stack calls it too; it may be called again.
func (l *link) Close() {
	l.mu.Lock()
	already := l.closed
	l.closed = true
	queue := l.queue
	l.queue = nil
	l.mu.Unlock()
	if already {
		return
	}
	l.conn.Close()
	l.ready.Broadcast()
	for _, pkt := range queue {
		pkt.DecRef()
	}
}

// Attach is gVisor handing over where frames go.
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&dispatcher)
}

// AddHeader writes the Ethernet header of a frame to the guest.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(etherLen))
	eth.Encode(&header.EthernetFields{
		SrcAddr: l.LinkAddress(), DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

// The rest of stack.LinkEndpoint is constant.

func (l *link) IsAttached() bool                 { return l.dispatcher.Load() != nil }
func (l *link) MTU() uint32                      { return l.mtu }
func (l *link) SetMTU(uint32)                    {}
func (l *link) MaxHeaderLength() uint16          { return etherLen }
func (l *link) LinkAddress() tcpip.LinkAddress   { return tcpip.LinkAddress(gatewayMAC()) }
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities leave out checksums of what the guest sends: the link is memory of this host and
// damages nothing, and a wrong sum of the guest's own would tell us no more than its bytes do.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) SetOnCloseAction(func())                 {}
