package intercept

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
)

// Request is one checked request. Its Body is still on the connection.
type Request struct {
	*http.Request
	Target  string // origin-form or "*", as it is sent on
	Upgrade bool   // asks to become a WebSocket (RFC 6455)
	// Others are what some servers take the request for instead, because a header says so.
	Others []Reading
}

// Reading is one way to understand a request.
type Reading struct{ Method, Path string }

// Path is the target without its query.
func (r *Request) Path() string {
	path, _, _ := strings.Cut(r.Target, "?")
	return path
}

// ReadRequest reads the next request from br, whose buffer holds MaxHead bytes or
// more, and checks it against the canonical name and the port of the connection.
// io.EOF says that the client ended between two requests. Any other error leaves br
// where it was: nothing that follows on the connection can be trusted.
func ReadRequest(br *bufio.Reader, name string, port uint16) (*Request, error) {
	head, err := peekHead(br)
	if err != nil {
		return nil, err
	}
	if err := checkHead(head); err != nil {
		return nil, err
	}
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, fmt.Errorf("parse the request: %w", err)
	}
	if !sameHost(req.Host, name, port) {
		return nil, fmt.Errorf("host %q %w, %q", req.Host, ErrName, name)
	}
	out := &Request{Request: req}
	if out.Target, err = target(head, req, name, port); err != nil {
		return nil, err
	}
	out.Upgrade = isWebSocket(req)
	out.Others, err = otherReadings(out)
	return out, err
}

// otherReadings looks for the headers by which frameworks and old servers let a client say another method or
// path than the request line has: a rule about either would otherwise be met by the one and mean the other.
func otherReadings(r *Request) ([]Reading, error) {
	methods, paths := []string{r.Method}, []string{r.Path()}
	for name, values := range r.Header {
		switch plainName(name) {
		case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
			methods = append(methods, values...)
		case "X-Original-Url", "X-Rewrite-Url", "X-Original-Uri":
			for _, v := range values {
				path, _, _ := strings.Cut(v, "?")
				paths = append(paths, path)
			}
		}
	}
	if len(methods) > 2 || len(paths) > 2 {
		return nil, errors.New("more than one header says another method or path")
	}
	var out []Reading
	for _, m := range methods {
		for _, p := range paths {
			out = append(out, Reading{strings.ToUpper(strings.TrimSpace(m)), p})
		}
	}
	return out[1:], nil // the first is the request's own
}

// plainName is a header's name as CGI and its heirs see it: they know no difference between "-" and "_".
func plainName(name string) string {
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// peekHead waits for a whole request head without consuming it.
func peekHead(br *bufio.Reader) ([]byte, error) {
	searched := 0
	for {
		b, err := br.Peek(max(1, br.Buffered()))
		if err != nil {
			return nil, err
		}
		if i := bytes.Index(b[searched:], []byte("\r\n\r\n")); i >= 0 && searched+i+4 <= MaxHead {
			return b[:searched+i+4], nil
		}
		if len(b) >= MaxHead {
			return nil, ErrTooLarge
		}
		searched = max(0, len(b)-3)
		if _, err := br.Peek(len(b) + 1); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// target gives the request's target in origin-form. An absolute-form target
// (RFC 9112 section 3.2.2) must name the same host, or it would be another request
// to a server that prefers it over Host.
func target(head []byte, req *http.Request, name string, port uint16) (string, error) {
	raw := strings.SplitN(string(head[:bytes.IndexByte(head, '\r')]), " ", 3)[1]
	switch {
	case strings.HasPrefix(raw, "/"), raw == "*" && req.Method == http.MethodOptions:
		return raw, nil
	case req.URL.Scheme != "http" || req.URL.User != nil || !sameHost(req.URL.Host, name, port):
		return "", fmt.Errorf("target %q %w, %q", raw, ErrName, name)
	}
	return req.URL.RequestURI(), nil
}

// sameHost compares a Host with the connection's name and port. A port may be
// left out; a trailing dot and upper case are the same name.
func sameHost(host, name string, port uint16) bool {
	if h, p, ok := strings.Cut(host, ":"); ok {
		if p != strconv.Itoa(int(port)) {
			return false
		}
		host = h
	}
	return lowerASCII(strings.TrimSuffix(host, ".")) == name
}

// isWebSocket tells whether the connection may become a WebSocket. Other
// upgrades (h2c) would carry requests that nobody checks, and are not asked for. With another method than GET
// it is none (RFC 6455 section 4.1), and a server would do what the method says.
func isWebSocket(req *http.Request) bool {
	if req.Method != http.MethodGet {
		return false
	}
	for _, v := range req.Header.Values("Connection") {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), "upgrade") {
				return strings.EqualFold(req.Header.Get("Upgrade"), "websocket")
			}
		}
	}
	return false
}

// WriteTo sends the request on as it was understood, not as it was written.
// It streams the body and returns when all of it is sent.
func (r *Request) WriteTo(w io.Writer, host string) error {
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.Target, host)
	chunked := len(r.TransferEncoding) > 0
	if err := r.forwarded(chunked).Write(&head); err != nil {
		return fmt.Errorf("write the request head: %w", err)
	}
	head.WriteString("\r\n")
	if _, err := w.Write(head.Bytes()); err != nil {
		return fmt.Errorf("send the request head: %w", err)
	}
	return writeBody(w, r.Body, chunked)
}

// forwarded gives the header lines that are sent on: without those that speak
// about this connection, with the length of the body as it is going to be sent.
func (r *Request) forwarded(chunked bool) http.Header {
	h := r.Header.Clone()
	for name := range h {
		if plain := plainName(name); plain == "Host" || slices.Contains(hopByHop(), plain) {
			delete(h, name)
		}
	}
	switch {
	case r.Upgrade:
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
	case r.Close:
		h.Set("Connection", "close")
	}
	switch {
	case chunked:
		h.Set("Transfer-Encoding", "chunked")
	case r.ContentLength > 0 || r.Header.Get("Content-Length") != "":
		h.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}
	return h
}

// hopByHop lists headers of one connection (RFC 9110 section 7.6.1), and Proxy,
// which CGI servers take for an environment variable (CVE-2016-5386).
func hopByHop() []string {
	return []string{
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy",
		"Te", "Trailer", "Transfer-Encoding", "Content-Length", "Upgrade", "Http2-Settings",
	}
}

// writeBody copies a body, in chunks of what was read at a time if chunked.
// Trailers are dropped, which RFC 9110 section 6.5 allows.
func writeBody(w io.Writer, body io.Reader, chunked bool) error {
	if body == nil {
		return nil
	}
	if !chunked {
		_, err := io.Copy(w, body)
		return err
	}
	out := httputil.NewChunkedWriter(w)
	if _, err := io.Copy(out, body); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\r\n")
	return err
}
