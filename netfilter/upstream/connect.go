package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/proxy"
)

const (
	// maxHead is the most that a proxy's answer may have before its empty line.
	maxHead = 16 << 10
	// maxCredential is SOCKS5's limit (RFC 1929), which does for all.
	maxCredential = 255
	maxName       = 253
)

var (
	errCredentials = errors.New("it asks for a user and password, or for others")
	errHead        = errors.New("its answer is too long or no HTTP")
)

// tunnel is a connection whose first bytes may have been read with the proxy's answer.
type tunnel struct {
	net.Conn
	in *bufio.Reader
}

func (t tunnel) Read(b []byte) (int, error) {
	if t.in.Buffered() > 0 {
		return t.in.Read(b)
	}
	return t.Conn.Read(b)
}

// CloseWrite ends our direction.
func (t tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return t.Close()
}

// connect asks an HTTP proxy (RFC 9110 section 9.3.6).
func (p *Proxy) connect(ctx context.Context, conn net.Conn, to string) (net.Conn, error) {
	if p.url.Scheme == "https" {
		client := tls.Client(conn, &tls.Config{ServerName: p.url.Hostname(), RootCAs: p.roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
		if err := client.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		conn = client
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: to}, Host: to, Header: http.Header{"User-Agent": {""}}}
	if user := p.url.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	status, err := readStatus(in, request)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusProxyAuthRequired:
		return nil, errCredentials
	case status < 200 || status > 299:
		return nil, fmt.Errorf("it answered %d %s", status, http.StatusText(status))
	}
	return tunnel{conn, in}, nil
}

// readStatus reads an answer's head and not a byte more. What follows is the server's.
func readStatus(in *bufio.Reader, request *http.Request) (int, error) {
	var head []byte
	for {
		line, err := in.ReadSlice('\n')
		head = append(head, line...)
		if len(head) > maxHead || errors.Is(err, bufio.ErrBufferFull) {
			return 0, errHead
		}
		if err != nil {
			return 0, err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), request)
	if err != nil {
		return 0, errHead
	}
	response.Body.Close()
	return response.StatusCode, nil
}

// socks asks a SOCKS5 proxy (RFC 1928, 1929) and leaves the name to it.
func (p *Proxy) socks(ctx context.Context, conn net.Conn, to string) (net.Conn, error) {
	var auth *proxy.Auth
	if user := p.url.User; user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", p.address(), auth, connected{conn})
	if err != nil {
		return nil, err
	}
	if _, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", to); err != nil {
		return nil, err
	}
	return conn, nil // and not x/net's, which cannot end one direction
}

// connected gives the connection that is there already.
type connected struct{ conn net.Conn }

func (c connected) Dial(string, string) (net.Conn, error) { return c.conn, nil }

func (c connected) DialContext(context.Context, string, string) (net.Conn, error) { return c.conn, nil }
