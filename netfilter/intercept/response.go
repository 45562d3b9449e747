package intercept

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

const (
	// maxResponseHead bounds what a server may send before a body; net/http's
	// client takes 10 MiB, no real server needs a tenth of that.
	maxResponseHead = 1 << 20
	// maxInterim bounds 1xx responses before the one that counts.
	maxInterim = 16
)

// Responses reads a server's responses from one connection.
type Responses struct {
	limit *io.LimitedReader
	br    *bufio.Reader
}

// NewResponses reads from r, of which it may buffer ahead.
func NewResponses(r io.Reader) *Responses {
	limit := &io.LimitedReader{R: r}
	return &Responses{limit: limit, br: bufio.NewReader(limit)}
}

// Relay writes the response to req to w: interim ones, then the final one with its
// body, streamed, after edit had a look at the headers of each. It reports its status, and whether the connection can carry
// another exchange. After status 101 the rest is in Rest.
func (s *Responses) Relay(w io.Writer, req *Request, edit func(http.Header)) (status int, again bool, err error) {
	for range maxInterim {
		s.limit.N = maxResponseHead
		resp, err := http.ReadResponse(s.br, req.Request)
		if err != nil {
			return 0, false, fmt.Errorf("read the response: %w", err)
		}
		s.limit.N = 1<<63 - 1
		edit(resp.Header)
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols && !req.Upgrade:
			return 0, false, fmt.Errorf("the server switched protocols unasked")
		case resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols:
			again, err := writeResponse(w, resp, req.Close)
			return resp.StatusCode, again, err
		}
		if _, err := writeResponse(w, resp, false); err != nil {
			return 0, false, err
		}
	}
	return 0, false, fmt.Errorf("more than %d interim responses", maxInterim)
}

// Rest is what follows on the connection, beginning with what is buffered.
func (s *Responses) Rest() io.Reader { return s.br }

// writeResponse writes one response. A body without known length is chunked,
// or ended by the connection's end if that is how the server does it.
func writeResponse(w io.Writer, resp *http.Response, last bool) (again bool, err error) {
	defer resp.Body.Close()
	switching := resp.StatusCode == http.StatusSwitchingProtocols
	chunked := len(resp.TransferEncoding) > 0 && resp.ContentLength < 0
	last = last || resp.Close || resp.ContentLength < 0 && !chunked && bodyAllowed(resp)
	h := resp.Header.Clone()
	if !switching {
		h.Del("Connection")
		h.Del("Keep-Alive")
		h.Del("Upgrade")
	}
	h.Del("Trailer")
	if chunked {
		h.Set("Transfer-Encoding", "chunked")
	}
	if last && resp.StatusCode >= 200 {
		h.Set("Connection", "close")
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %s\r\n", statusText(resp))
	if err := h.Write(&head); err != nil {
		return false, fmt.Errorf("write the response head: %w", err)
	}
	head.WriteString("\r\n")
	if _, err := w.Write(head.Bytes()); err != nil {
		return false, fmt.Errorf("send the response head: %w", err)
	}
	if resp.StatusCode < 200 || !bodyAllowed(resp) {
		return !last, nil
	}
	return !last, writeBody(w, resp.Body, chunked)
}

// statusText is our own phrase: a server's could carry anything.
func statusText(resp *http.Response) string {
	return strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
}

// bodyAllowed tells whether the response has a body at all (RFC 9112 section 6.3).
func bodyAllowed(resp *http.Response) bool {
	return resp.StatusCode >= 200 && resp.StatusCode != http.StatusNoContent &&
		resp.StatusCode != http.StatusNotModified && resp.Request.Method != http.MethodHead
}
