package gateway

import (
	"encoding/binary"
	"fmt"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
)

// groBucket is how many flows the engine below keeps in one of its buckets (gro.groBucketSize).
const groBucket = 8

// inbound takes the guest's frames to the stack, segments of one TCP flow joined to one
// (generic receive offload): what a frame costs is mostly its way through the stack. One
// goroutine uses it.
type inbound struct {
	link *link
	gro  gro.GRO
}

func newInbound(l *link) *inbound {
	in := &inbound{link: l}
	in.gro.Init(true)
	return in
}

// add copies a frame that passes the filter. What is joined waits for flush.
func (in *inbound) add(frame []byte) {
	if reason := in.link.filter.check(frame); reason != passed {
		in.link.drops[reason].Add(1)
		return
	}
	to := in.link.dispatcher.Load()
	if to == nil {
		return
	}
	defer in.recover()
	in.gro.Dispatcher = *to
	protocol := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:14]))
	if protocol == typeIPv4 { // without the padding of short frames, which would be joined as data
		frame = frame[:etherLen+int(binary.BigEndian.Uint16(frame[etherLen+2:]))]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(buffer.NewViewWithData(frame)),
	})
	defer pkt.DecRef()
	pkt.LinkHeader().Consume(etherLen)
	pkt.PktType = tcpip.PacketHost
	pkt.NetworkProtocolNumber = protocol
	pkt.RXChecksumValidated = true // as link.Capabilities says
	in.gro.Enqueue(pkt)
}

// flush delivers what was joined.
func (in *inbound) flush() {
	defer in.recover()
	for range groBucket { // the engine's own Flush takes one flow of each bucket
		in.gro.Flush()
	}
}

// recover makes a panic in the stack cost the frames at hand, not the sandbox's network.
func (in *inbound) recover() {
	p := recover()
	if p == nil {
		return
	}
	in.link.panics.Add(1)
	in.link.log.Error("the network stack panicked over a frame", "panic", fmt.Sprint(p))
	in.gro = gro.GRO{}
	in.gro.Init(true)
}
