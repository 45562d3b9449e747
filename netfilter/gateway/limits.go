package gateway

import "time"

// DefaultMTU of the guest's interface. The link has no segmentation offload, so
// the size of a frame is the throughput; 65520 is the most that both virtio-net's
// host_mtu and QEMU's stream (69632 bytes) carry with headers. Containers in the
// guest keep their own bridges' MTU, which only bounds their segments.
const DefaultMTU = 65520

// What one guest can use of the host at most.
const (
	// maxFlows is connections, each with one descriptor on the host. An `npm install`
	// opens some tens, a parallel build of containers some hundreds.
	maxFlows = 1024
	// maxDials is connections that wait for the host's resolver or a server; each
	// holds up to two descriptors. It keeps black holes from using up maxFlows.
	maxDials = 256
	// maxDialsPerName leaves room for other names beside one that hangs.
	maxDialsPerName = 64
	// maxHalfOpen is handshakes that the guest has not completed. One that is more
	// ends the oldest, because an honest guest on this link completes in microseconds.
	maxHalfOpen = 384
	// maxInFlight is SYNs being decided, dialled for or answered. It is above
	// maxDials+maxHalfOpen, so that what gVisor drops is a flood only, and below
	// maxFlows, so that a flood does not take the place of what is open.
	maxInFlight = 768

	// wideFlows connections get buffers for full throughput (wideBuffer, each direction, the
	// most that gVisor takes; at 1 MiB the guest waited for the window two thirds of the time);
	// those beyond get narrowBuffer. Together at most 256 MiB.
	wideFlows    = 16
	wideBuffer   = 4 << 20
	narrowBuffer = 64 << 10
)

// How long things may take.
const (
	handshakeTimeout = 3 * time.Second  // of a guest that answers a SYN-ACK
	helloTimeout     = 10 * time.Second // for the bytes that name the host
	resolveTimeout   = 5 * time.Second
	dialTimeout      = 10 * time.Second
	fallbackDelay    = 250 * time.Millisecond // RFC 8305 section 5
	requestIdle      = 5 * time.Minute        // between requests of a connection, and between parts of a body
	lingerTimeout    = 10 * time.Second       // in FIN_WAIT_2, TIME_WAIT and for a guest that does not read its last bytes
	maxDrainPoll     = 500 * time.Millisecond
	keepaliveIdle    = 60 * time.Second
	keepaliveEvery   = 20 * time.Second
)

// Names.
const (
	// maxQuery is the largest DNS query: name, question and options are far smaller.
	maxQuery = 1024
	// maxLookups is questions that wait for the host's resolver.
	maxLookups = 64
	// lookupRate and lookupBurst bound names per second that go to the host's
	// resolver: what an allowed wildcard can carry out in labels (D3).
	lookupRate  = 10
	lookupBurst = 200
	// existsFor is how long a name that was found is not asked again for an answer
	// to the guest.
	existsFor = 5 * time.Second
	// answerFor is how long the addresses of an answer serve connections, each after a check of its own.
	answerFor = time.Second
	// maxDNSConns is DNS connections over TCP; dnsIdle ends one that is slow.
	maxDNSConns = 8
	dnsIdle     = 10 * time.Second
	// maxAddrs is how many addresses of an answer are tried. All are checked.
	maxAddrs = 8
	// maxAnswer refuses an answer that no real name has.
	maxAnswer = 256
	// maxDenials is how many refusals are remembered for Denials.
	maxDenials = 256
)

// patience is the waits that a hostile guest or a dead resolver can use up whole, and how long an answer serves.
type patience struct{ hello, resolve, answer time.Duration }
