package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of the protocol that are answered; others are refused.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqResetDevice         = 34
	reqSetDeviceState      = 42
	reqCheckDeviceState    = 43
)

const (
	headerSize     = 12
	maxPayload     = 4096 // the largest that is understood, a memory table, has 264
	maxDescriptors = 8
	version        = 1
	flagReply      = 1 << 2
	flagNeedReply  = 1 << 3
)

// message is one request of QEMU's. Its descriptors belong to who holds it.
type message struct {
	request, flags uint32
	payload        []byte
	fds            []int
}

// readMessage reads one; io.EOF when QEMU closed the connection between messages.
func readMessage(conn *net.UnixConn) (*message, error) {
	head := make([]byte, headerSize)
	oob := make([]byte, unix.CmsgSpace(maxDescriptors*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	fds, err := descriptors(oob[:oobn])
	m := &message{fds: fds}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more descriptors than any message has")
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil {
		err = m.readRest(conn, head, n)
	}
	if err != nil {
		m.closeFDs()
		return nil, err
	}
	return m, nil
}

func (m *message) readRest(conn io.Reader, head []byte, have int) error {
	if err := readFull(conn, head[have:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	size, err := m.parseHeader(head)
	if err != nil {
		return err
	}
	m.payload = make([]byte, size)
	if err := readFull(conn, m.payload); err != nil {
		return fmt.Errorf("request %d: payload: %w", m.request, err)
	}
	return nil
}

// readFull reads what must come: an end here is an error.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (m *message) parseHeader(head []byte) (size uint32, err error) {
	m.request = binary.NativeEndian.Uint32(head)
	m.flags = binary.NativeEndian.Uint32(head[4:])
	size = binary.NativeEndian.Uint32(head[8:])
	if m.flags&3 != version || m.flags&flagReply != 0 || size > maxPayload {
		return 0, fmt.Errorf("request %d: flags %#x, %d bytes", m.request, m.flags, size)
	}
	return size, nil
}

func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, timestamps: not ours
		}
		all = append(all, fds...)
	}
	return all, nil
}

func (m *message) closeFDs() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// takeFD hands the one descriptor over.
func (m *message) takeFD() (int, error) {
	if len(m.fds) != 1 {
		return -1, fmt.Errorf("request %d with %d descriptors", m.request, len(m.fds))
	}
	fd := m.fds[0]
	m.fds = nil
	return fd, nil
}

func (m *message) u64() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, fmt.Errorf("request %d: payload of %d bytes", m.request, len(m.payload))
	}
	return binary.NativeEndian.Uint64(m.payload), nil
}

// state is the payload of most requests about a ring: its index and a number.
func (m *message) state() (index, num uint32, err error) {
	if len(m.payload) != 8 {
		return 0, 0, fmt.Errorf("request %d: payload of %d bytes", m.request, len(m.payload))
	}
	return binary.NativeEndian.Uint32(m.payload), binary.NativeEndian.Uint32(m.payload[4:]), nil
}

// addr is SET_VRING_ADDR's payload: index, flags, descriptors, used, available, log.
func (m *message) addr() (index uint32, a ringAddr, err error) {
	if len(m.payload) != 40 {
		return 0, a, fmt.Errorf("ring address of %d bytes", len(m.payload))
	}
	e := binary.NativeEndian
	return e.Uint32(m.payload), ringAddr{desc: e.Uint64(m.payload[8:]), used: e.Uint64(m.payload[16:]), avail: e.Uint64(m.payload[24:])}, nil
}

func (m *message) regions() ([]regionInfo, error) {
	if len(m.payload) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes", len(m.payload))
	}
	e := binary.NativeEndian
	n := e.Uint32(m.payload)
	if n > maxRegions || len(m.payload) < 8+int(n)*32 {
		return nil, fmt.Errorf("memory table of %d regions in %d bytes", n, len(m.payload))
	}
	infos := make([]regionInfo, n)
	for i := range infos {
		b := m.payload[8+i*32:]
		infos[i] = regionInfo{Guest: e.Uint64(b), Size: e.Uint64(b[8:]), User: e.Uint64(b[16:]), Offset: e.Uint64(b[24:])}
	}
	return infos, nil
}

// writeReply answers a request.
func writeReply(conn io.Writer, request uint32, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.NativeEndian.PutUint32(b, request)
	binary.NativeEndian.PutUint32(b[4:], version|flagReply)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(payload)))
	if _, err := conn.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("reply to request %d: %w", request, err)
	}
	return nil
}
