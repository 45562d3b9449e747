// Package upstream reaches servers through the proxy of the user's own network, where the host itself
// has no other way out: HTTP CONNECT (to a proxy over TCP or TLS) and SOCKS5 with names.
//
// A proxy decides nothing: whoever asks for a connection has asked the policy before. The proxy's
// answers are hostile as far as that goes: bounded in size, and in time by the caller's context. What
// is said to it is made here, never taken from a guest.
package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Proxy is a way out of the host. It is safe for concurrent use and holds nothing open.
type Proxy struct {
	url     *url.URL
	outside func(*url.URL) (*url.URL, error) // nil URL for what NO_PROXY names
	dialer  net.Dialer                       // to the proxy itself
	roots   *x509.CertPool                   // for an https proxy; nil is the host's own store
}

// FromURL makes a proxy of a URL: http, https or socks5, with user and password where the proxy asks
// for them. noProxy are hosts that are reached directly, in the forms of NO_PROXY: "example.com",
// ".example.com", "10.0.0.0/8", "*", each with or without a port. Errors do not hold the URL, which may
// hold a password.
func FromURL(raw string, noProxy ...string) (*Proxy, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the proxy is no URL")
	}
	u.Scheme = strings.ToLower(u.Scheme)
	if !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) || u.Hostname() == "" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("a proxy is http, https or socks5, a host and a port")
	}
	password, _ := u.User.Password()
	if len(u.User.Username()) > maxCredential || len(password) > maxCredential {
		return nil, fmt.Errorf("a proxy's user and password have at most %d bytes", maxCredential)
	}
	// httpproxy decides about NO_PROXY alone: a URL that it cannot read it would take for no proxy.
	rules := httpproxy.Config{HTTPSProxy: "http://proxy.invalid", NoProxy: strings.Join(noProxy, ",")}
	return &Proxy{url: u, outside: rules.ProxyFunc()}, nil
}

// FromEnvironment makes a proxy of HTTPS_PROXY, else ALL_PROXY, and NO_PROXY, in capitals or not, as
// getenv gives them. It is nil when none of them is set. A value without a scheme means http. HTTP_PROXY
// is not read: a CGI program's client can set it (CVE-2016-5386).
func FromEnvironment(getenv func(string) string) (*Proxy, error) {
	either := func(name string) (string, string) {
		if v := getenv(name); v != "" {
			return v, name
		}
		return getenv(strings.ToLower(name)), strings.ToLower(name)
	}
	raw, from := either("HTTPS_PROXY")
	if raw == "" {
		raw, from = either("ALL_PROXY")
	}
	if raw == "" {
		return nil, nil
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	direct, _ := either("NO_PROXY")
	p, err := FromURL(raw, direct)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return p, nil
}

// New makes a proxy of netfilter.Spec's Proxy: nil for "", the variables of getenv for "environment",
// else of the URL.
func New(setting string, getenv func(string) string) (*Proxy, error) {
	switch setting {
	case "":
		return nil, nil
	case "environment":
		return FromEnvironment(getenv)
	}
	return FromURL(setting)
}

// String is the URL without its password.
func (p *Proxy) String() string { return p.url.Redacted() }

// Covers tells whether a name, or literal address, is reached through the proxy. A nil proxy covers none,
// and no proxy covers localhost and loopback addresses.
func (p *Proxy) Covers(name string, port uint16) bool {
	if p == nil {
		return false
	}
	via, err := p.outside(&url.URL{Scheme: "https", Host: hostPort(name, port)})
	return err != nil || via != nil
}

// DialName connects to a port of a name, which the proxy resolves, or of a literal address. ctx bounds all
// of it. The caller owns the connection; its CloseWrite ends one direction where the proxy passes that on.
// Errors hold no credentials.
func (p *Proxy) DialName(ctx context.Context, name string, port uint16) (net.Conn, error) {
	if strings.ContainsFunc(name, foreign) || name == "" || len(name) > maxName {
		return nil, errors.New("a name that no proxy is asked for")
	}
	conn, err := p.dialer.DialContext(ctx, "tcp", p.address())
	if err != nil {
		return nil, fmt.Errorf("reach the proxy: %w", err)
	}
	// Whatever waits on the connection ends with ctx, and not before.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	through, err := p.through(ctx, conn, hostPort(name, port))
	if !stop() || ctx.Err() != nil { // x/net may hear of the end before AfterFunc does
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("through the proxy: %w", err)
	}
	return through, nil
}

func (p *Proxy) through(ctx context.Context, conn net.Conn, to string) (net.Conn, error) {
	if strings.HasPrefix(p.url.Scheme, "socks") {
		return p.socks(ctx, conn, to)
	}
	return p.connect(ctx, conn, to)
}

// address is the proxy's own.
func (p *Proxy) address() string {
	port := p.url.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[p.url.Scheme]
	}
	if port == "" {
		port = "1080"
	}
	return net.JoinHostPort(p.url.Hostname(), port)
}

func hostPort(name string, port uint16) string {
	return net.JoinHostPort(name, strconv.Itoa(int(port)))
}

// foreign finds what is in no canonical name and no address.
func foreign(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:", r)
}
