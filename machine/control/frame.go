package control

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame carries.
type Kind byte

// The frames of an exec. A frame is its kind, the length of its payload (four
// bytes, big endian) and the payload. The server ends with FrameExit or FrameError.
const (
	FrameStdin    Kind = 'i'
	FrameStdinEOF Kind = 'e'
	FrameResize   Kind = 'r' // WinSize
	FrameSignal   Kind = 's' // SSH's name of it
	FrameStdout   Kind = 'o'
	FrameStderr   Kind = 'x'
	FrameExit     Kind = 'q' // Exit
	FrameError    Kind = 'f' // text: sbx itself failed
)

// MaxFrame bounds a payload in bytes.
const MaxFrame = 64 << 10

// FrameWriter writes frames whole; it is safe for concurrent use and blocks as its
// writer does, which is the back-pressure of an exec.
type FrameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// NewFrameWriter writes to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// Write sends one frame; longer data is cut into several.
func (f *FrameWriter) Write(kind Kind, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for first := true; first || len(data) > 0; first = false {
		part := data[:min(len(data), MaxFrame)]
		data = data[len(part):]
		frame := make([]byte, 5, 5+len(part))
		frame[0] = byte(kind)
		binary.BigEndian.PutUint32(frame[1:], uint32(len(part)))
		if _, err := f.w.Write(append(frame, part...)); err != nil {
			return err
		}
	}
	return nil
}

// JSON sends a value as one frame.
func (f *FrameWriter) JSON(kind Kind, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return f.Write(kind, data)
}

// Stream is an io.Writer that sends frames of one kind.
func (f *FrameWriter) Stream(kind Kind) io.Writer { return frameStream{f, kind} }

type frameStream struct {
	f    *FrameWriter
	kind Kind
}

func (s frameStream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.f.Write(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadFrame reads one frame into buf, which it returns grown; the payload is valid
// until the next call with the same buf.
func ReadFrame(r io.Reader, buf []byte) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, buf, fmt.Errorf("frame of %d bytes, more than %d", n, MaxFrame)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, MaxFrame)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return Kind(head[0]), buf, err
}
