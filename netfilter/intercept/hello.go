package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	// MaxHello is the most bytes of a connection that are read to find a whole
	// ClientHello: crypto/tls takes handshake messages of up to 64 KiB; the rest
	// is room for record headers (one per byte of a hello cut to pieces is too many).
	MaxHello = 80 << 10

	recordHandshake = 0x16
)

// hidesName tells of the extensions that carry another server name, which only the server can read: ECH
// (RFC 9849, 0xfe0d), its drafts, and ESNI before it (0xffce).
func hidesName(extension uint16) bool {
	return extension >= 0xfe08 && extension <= 0xfe0d || extension == 0xff02 || extension == 0xffce
}

// Hello is what a ClientHello says in the clear.
type Hello struct {
	ServerName string // as it was sent; see Hello.Check
	ECH        bool
}

var errHelloRead = errors.New("hello read")

// ReadHello reads a ClientHello from r and returns it together with every byte
// that was read, which may be more than the hello. It never writes. The caller
// bounds its time by a deadline on what r reads from.
func ReadHello(r io.Reader) (Hello, []byte, error) {
	var raw bytes.Buffer
	var hello Hello
	in := io.TeeReader(io.LimitReader(r, MaxHello), &raw)
	config := &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		hello.ServerName = info.ServerName
		hello.ECH = slices.ContainsFunc(info.Extensions, hidesName)
		return nil, errHelloRead
	}}
	err := tls.Server(readOnly{in}, config).HandshakeContext(context.Background())
	if errors.Is(err, errHelloRead) {
		return hello, raw.Bytes(), nil
	}
	if err == nil {
		err = errors.New("handshake went on after the hello")
	}
	return Hello{}, raw.Bytes(), fmt.Errorf("not a TLS hello: %w", err)
}

// Check says whether the hello is for name, which is canonical. crypto/tls lets
// NUL, spaces and addresses through; none of them equals a canonical name.
func (h Hello) Check(name string) error {
	switch {
	case h.ECH:
		return ErrECH
	case h.ServerName == "":
		return ErrNoSNI
	case lowerASCII(h.ServerName) != name:
		return fmt.Errorf("SNI %q %w, %q", h.ServerName, ErrName, name)
	}
	return nil
}

// AccessDenied is the TLS alert that tells a client so (RFC 8446 section 6.2),
// in a record of its own, valid before any version is agreed on.
func AccessDenied() []byte { return []byte{0x15, 3, 1, 0, 2, 2, 49} }

// lowerASCII folds ASCII alone: Unicode folding would make a Kelvin sign a k.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// readOnly is a net.Conn for crypto/tls that swallows what it would answer.
type readOnly struct{ io.Reader }

func (readOnly) Write(b []byte) (int, error)      { return len(b), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }
