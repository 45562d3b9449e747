package vhostuser

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// idle is a device that does nothing.
type idle struct{}

func (idle) Handle(_, _ [][]byte) int { return 0 }
func (idle) Slow([][]byte, bool) bool { return false }
func (idle) Flush()                   {}
func (idle) Save(w io.Writer) error   { _, err := w.Write([]byte("idle")); return err }
func (idle) Load(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && string(b) != "idle" {
		err = fmt.Errorf("state is %q", b)
	}
	return err
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func socketPair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

func frame(request, flags uint32, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, request)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// talk sends bytes to a session and returns what it answered and how it ended.
func talk(t testing.TB, sent []byte) ([]byte, error) {
	t.Helper()
	ours, theirs := socketPair(t)
	defer theirs.Close()
	if err := theirs.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(context.Background(), ours, idle{}, slog.New(slog.DiscardHandler))
	}()
	go func() {
		_, _ = theirs.Write(sent) // the session may end before it has read all
		_ = theirs.CloseWrite()
	}()
	got, _ := io.ReadAll(theirs) // a reset is an end too
	return got, <-ended
}

func TestRepliesAreGivenWhenAsked(t *testing.T) {
	const need = version | flagNeedReply
	ack := frame(reqSetProtocolFeatures, version, u64(protocolReplyAck))
	ring := func(index, num uint32) []byte { return u64(uint64(index) | uint64(num)<<32) }
	for name, c := range map[string]struct {
		request uint32
		payload []byte
		want    uint64
	}{
		"enable":              {request: reqSetVringEnable, payload: ring(0, 1)},
		"disable":             {request: reqSetVringEnable, payload: ring(1, 0)},
		"no such ring":        {request: reqSetVringEnable, payload: ring(maxQueues, 1), want: 1},
		"owner":               {request: reqSetOwner},
		"reset":               {request: reqResetDevice},
		"ring too large":      {request: reqSetVringNum, payload: ring(0, 4096), want: 1},
		"base too large":      {request: reqSetVringBase, payload: ring(0, 1<<16), want: 1},
		"no descriptor":       {request: reqSetVringKick, payload: u64(0), want: 1},
		"polling":             {request: reqSetVringKick, payload: u64(1 << 8), want: 1},
		"call without":        {request: reqSetVringCall, payload: u64(1 << 8)},
		"unknown features":    {request: reqSetFeatures, payload: u64(1 << 63), want: 1},
		"unknown request":     {request: 999, want: 1},
		"short payload":       {request: reqSetVringAddr, payload: []byte{1}, want: 1},
		"regions without fds": {request: reqSetMemTable, payload: append(u64(1), make([]byte, 32)...), want: 1},
		"too many regions":    {request: reqSetMemTable, payload: append(u64(99), make([]byte, 32)...), want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := talk(t, append(ack[:len(ack):len(ack)], frame(c.request, need, c.payload)...))
			if err != nil {
				t.Fatal(err)
			}
			if want := frame(c.request, version|flagReply, u64(c.want)); string(got) != string(want) {
				t.Errorf("answer % x, want % x", got, want)
			}
		})
	}
}

func TestBrokenProtocolEndsTheSession(t *testing.T) {
	for name, sent := range map[string][]byte{
		"wrong version":      frame(reqSetOwner, 2, nil),
		"a reply":            frame(reqSetOwner, version|flagReply, nil),
		"huge payload":       append(frame(reqSetOwner, version, nil)[:8], 0xff, 0xff, 0xff, 0x7f),
		"cut header":         {1, 0, 0},
		"cut payload":        frame(reqSetFeatures, version, u64(0))[:15],
		"refused, untold of": frame(999, version, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := talk(t, sent); err == nil {
				t.Error("the session ended as if QEMU had gone")
			}
		})
	}
}

func TestContextEndsTheSession(t *testing.T) {
	ours, theirs := socketPair(t)
	defer theirs.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	err := Serve(ctx, ours, idle{}, slog.New(slog.DiscardHandler))
	if err != io.ErrNoProgress { //nolint:errorlint // the cause itself is promised
		t.Errorf("ended with %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(frame(reqGetFeatures, version, nil))
	f.Add(append(frame(reqSetVringNum, version, u64(0x4_0000_0000)), frame(reqGetVringBase, version, u64(0))...))
	f.Add(frame(reqSetMemTable, version|flagNeedReply, append(u64(1), make([]byte, 32)...)))
	f.Fuzz(func(t *testing.T, sent []byte) {
		_, _ = talk(t, sent) // must end, and not bring the process down
	})
}
