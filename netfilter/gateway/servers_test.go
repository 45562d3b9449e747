package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// certificate makes a self-signed one and the pool that trusts it.
func certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// serveHTTP puts a handler behind port 80.
func serveHTTP(t testing.TB, w *world, h http.Handler) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	w.net.servers[80] = s.Listener.Addr().String()
}

// guestClient speaks HTTP over one connection of the guest.
func guestClient(c net.Conn) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           func(context.Context, string, string) (net.Conn, error) { return c, nil },
		MaxConnsPerHost:       1,
		ExpectContinueTimeout: time.Minute,
	}}
}

func (gu *guest) listen(port uint16) *gonet.TCPListener {
	gu.t.Helper()
	l, err := gonet.ListenTCP(gu.stack, tcpip.FullAddress{NIC: nicID, Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		gu.t.Fatal(err)
	}
	return l
}
