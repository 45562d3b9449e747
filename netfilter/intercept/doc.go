// Package intercept reads the beginning of what a guest says on a connection,
// before anything of it leaves the host: a TLS ClientHello (RFC 8446 section
// 4.1.2) for its SNI, or an HTTP/1.1 request head (RFC 9112) for its Host. It
// only reads, checks and re-serialises; it neither dials nor decides.
//
// TLS: the bytes read are handed back, to be replayed as they were. The parser is
// crypto/tls, stopped before it answers.
//
// HTTP: crypto and framing attacks live in what two parsers read differently, so a
// request head must be in the one form that all parsers read alike (CRLF line
// ends, no folding, one Host, one kind of length), and what is sent on is written
// anew from what was parsed. Every request of a connection is checked.
package intercept

import "errors"

// Protocol is what a client's first byte announces.
type Protocol int

// What a first byte may announce.
const (
	Unknown Protocol = iota
	TLS
	HTTP
)

// Sniff tells the protocol by the client's first byte: a TLS handshake record,
// or a letter of a method, which are all upper case in practice.
func Sniff(first byte) Protocol {
	switch {
	case first == recordHandshake:
		return TLS
	case 'A' <= first && first <= 'Z':
		return HTTP
	}
	return Unknown
}

// Errors that callers branch on.
var (
	ErrNoSNI    = errors.New("the TLS hello names no server")
	ErrECH      = errors.New("the TLS hello is encrypted (ECH)")
	ErrName     = errors.New("is not the name that was resolved")
	ErrConnect  = errors.New("method CONNECT is not served")
	ErrTrace    = errors.New("method TRACE is not served: its answer is the request, with what was put in")
	ErrTooLarge = errors.New("the request head is too large")
)
