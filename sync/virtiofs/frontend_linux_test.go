package virtiofs

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frontend is QEMU and the guest's driver in one: memory of its own, and one request
// queue (number 1) whose requests go through the real rings.
type frontend struct {
	t          *testing.T
	conn       *net.UnixConn
	memfd      int
	mem        []byte
	kick, call *os.File
	next       uint16
	unique     uint64
	ended      chan error
}

const (
	memSize   = 4 << 20
	userBase  = 0x7f00_0000_0000
	queueSize = 8
	descAt    = 0x1000
	availAt   = 0x2000
	usedAt    = 0x3000
	inAt      = 0x10000
	outAt     = 0x200000
	outSize   = 0x110000
)

// start serves cfg and brings the device up.
func start(t *testing.T, cfg Config) *frontend {
	t.Helper()
	return startServed(t, cfg, func(ctx context.Context, conn *net.UnixConn, cfg Config) error {
		return Serve(ctx, conn, cfg, discard())
	})
}

func startServed(t *testing.T, cfg Config, serve server) *frontend {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := inherited(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	conn, err := inherited(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	f := &frontend{t: t, conn: conn, ended: make(chan error, 1)}
	go func() { f.ended <- serve(context.Background(), ours, cfg) }()
	f.makeMemory()
	f.setUp()
	t.Cleanup(f.stop)
	return f
}

func (f *frontend) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *frontend) makeMemory() {
	var err error
	f.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	f.check(err)
	f.check(unix.Ftruncate(f.memfd, memSize))
	f.mem, err = unix.Mmap(f.memfd, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	f.check(err)
}

func (f *frontend) eventfd() *os.File {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	f.check(err)
	return os.NewFile(uintptr(fd), "eventfd")
}

func pack(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

// send makes a request that asks for an answer, and returns it.
func (f *frontend) send(request uint32, payload []byte, fds ...int) []byte {
	f.t.Helper()
	b := binary.NativeEndian.AppendUint32(nil, request)
	b = binary.NativeEndian.AppendUint32(b, 1|8)
	b = append(binary.NativeEndian.AppendUint32(b, uint32(len(payload))), payload...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := f.conn.WriteMsgUnix(b, oob, nil)
	f.check(err)
	f.check(f.conn.SetReadDeadline(time.Now().Add(20 * time.Second)))
	reply := make([]byte, 12+8)
	_, err = io.ReadFull(f.conn, reply)
	f.check(err)
	return reply[12:]
}

func (f *frontend) must(request uint32, payload []byte, fds ...int) {
	f.t.Helper()
	if got := binary.NativeEndian.Uint64(f.send(request, payload, fds...)); got != 0 {
		f.t.Fatalf("request %d was refused", request)
	}
}

const ringOne = 1

func (f *frontend) setUp() {
	f.t.Helper()
	offered := binary.NativeEndian.Uint64(f.send(1, nil))
	f.send(15, nil)
	f.must(16, pack(1<<0|1<<3|1<<19))
	f.must(2, pack(offered&^(1<<26))) // logging is refused
	f.startRing()
}

func (f *frontend) startRing() {
	f.t.Helper()
	f.kick, f.call, f.next = f.eventfd(), f.eventfd(), 0
	clear(f.mem[descAt : usedAt+0x1000])
	f.must(5, pack(1, 0, memSize, userBase, 0), f.memfd)
	f.must(8, pack(ringOne|queueSize<<32))
	f.must(10, pack(ringOne))
	f.must(9, pack(ringOne, userBase+descAt, userBase+usedAt, userBase+availAt, 0))
	f.must(13, pack(ringOne), int(f.call.Fd()))
	f.must(12, pack(ringOne), int(f.kick.Fd()))
	f.must(18, pack(ringOne|1<<32))
}

// stopRing is what a reset of the guest does.
func (f *frontend) stopRing() (base uint64) {
	f.t.Helper()
	f.must(18, pack(ringOne))
	base = binary.NativeEndian.Uint64(f.send(11, pack(ringOne))) >> 32
	f.kick.Close()
	f.call.Close()
	return base
}

func (f *frontend) stop() {
	f.conn.Close()
	select {
	case err := <-f.ended:
		if err != nil {
			f.t.Errorf("serve: %v", err)
		}
	case <-time.After(20 * time.Second):
		f.t.Error("serve does not end")
	}
	unix.Close(f.memfd)
	f.check(unix.Munmap(f.mem))
}

func (f *frontend) descriptor(i int, addr, size uint64, flags, next uint16) {
	b := f.mem[descAt+16*i:]
	binary.LittleEndian.PutUint64(b, addr)
	binary.LittleEndian.PutUint32(b[8:], uint32(size))
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

func (f *frontend) offer(head uint16) {
	binary.LittleEndian.PutUint16(f.mem[availAt+4+2*int(f.next%queueSize):], head)
	f.next++
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&f.mem[availAt])), uint32(f.next)<<16)
	_, err := f.kick.Write(pack(1))
	f.check(err)
}

var errSilent = errors.New("no answer")

// exchange puts one request through the ring: header and data split as Linux does it.
func (f *frontend) exchange(request []byte) ([]byte, error) {
	f.t.Helper()
	copy(f.mem[inAt:], request)
	head := min(len(request), 40)
	f.descriptor(0, inAt, uint64(head), 1, 1)
	f.descriptor(1, inAt+uint64(head), uint64(len(request)-head), 1, 2)
	f.descriptor(2, outAt, 16, 1|2, 3)
	f.descriptor(3, outAt+16, outSize-16, 2, 0)
	binary.LittleEndian.PutUint16(f.mem[availAt+4+2*queueSize:], f.next) // the answer interrupts
	f.offer(0)
	f.check(f.call.SetReadDeadline(time.Now().Add(10 * time.Second)))
	for uint16(atomic.LoadUint32((*uint32)(unsafe.Pointer(&f.mem[usedAt])))>>16) != f.next {
		if _, err := f.call.Read(make([]byte, 8)); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, errSilent
		}
	}
	n := binary.LittleEndian.Uint32(f.mem[usedAt+4+8*int((f.next-1)%queueSize)+4:])
	return append([]byte(nil), f.mem[outAt:outAt+int(n)]...), nil
}

// fuse makes a FUSE request of the guest's root. The error is the guest's errno.
func (f *frontend) fuse(opcode uint32, node uint64, body ...[]byte) ([]byte, error) {
	f.t.Helper()
	return f.fuseAs(0, opcode, node, body...)
}

// fuseAs is fuse for another user of the guest.
func (f *frontend) fuseAs(uid, opcode uint32, node uint64, body ...[]byte) ([]byte, error) {
	f.t.Helper()
	f.unique++
	request := make([]byte, 40)
	for _, b := range body {
		request = append(request, b...)
	}
	e := binary.NativeEndian
	e.PutUint32(request, uint32(len(request)))
	e.PutUint32(request[4:], opcode)
	e.PutUint64(request[8:], f.unique)
	e.PutUint64(request[16:], node)
	e.PutUint32(request[24:], uid)
	reply, err := f.exchange(request)
	f.check(err)
	if len(reply) < 16 || e.Uint64(reply[8:]) != f.unique {
		f.t.Fatalf("opcode %d: answer % x", opcode, reply)
	}
	if errno := -int32(e.Uint32(reply[4:])); errno != 0 {
		return nil, unix.Errno(errno)
	}
	return reply[16:], nil
}

func words(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

func name(s ...string) (b []byte) {
	for _, x := range s {
		b = append(append(b, x...), 0)
	}
	return b
}

func (f *frontend) init() {
	f.t.Helper()
	_, err := f.fuse(26, 0, words(7, 38, 1<<20, ^uint32(0), 0), make([]byte, 44))
	f.check(err)
}

// lookup returns the node.
func (f *frontend) lookup(node uint64, n string) (uint64, error) {
	f.t.Helper()
	out, err := f.fuse(1, node, name(n))
	if err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(out), nil
}

// create returns the node and the handle.
func (f *frontend) create(dir uint64, n string, flags, mode uint32) (node, handle uint64, err error) {
	f.t.Helper()
	out, err := f.fuse(35, dir, words(flags, mode, 0, 0), name(n))
	if err != nil {
		return 0, 0, err
	}
	return binary.NativeEndian.Uint64(out), binary.NativeEndian.Uint64(out[128:]), nil
}
