package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sbx-vm/sbx/netfilter/audit"
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
	w.net.listen(80, s.Listener.Addr().String())
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

// packets makes frames as gVisor hands them to a link.
func packets(t testing.TB, n, size int) stack.PacketBufferList {
	t.Helper()
	var list stack.PacketBufferList
	for range n {
		list.PushBack(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, size))}))
	}
	t.Cleanup(list.Reset)
	return list
}

func readLog(t testing.TB, path string) []audit.Entry {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var entries []audit.Entry
	for line := range bytes.Lines(b) {
		var e audit.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// hasEntry finds an entry that agrees with all that want says.
func hasEntry(entries []audit.Entry, want audit.Entry) bool {
	for _, e := range entries {
		if e.Kind == want.Kind && e.Verdict == want.Verdict && e.Name == want.Name && e.Port == want.Port &&
			e.BytesUp == want.BytesUp && e.BytesDown == want.BytesDown &&
			(want.Rule == "" || e.Rule == want.Rule) && (want.Addr == "" || e.Addr == want.Addr) && (want.Reason == "" || e.Reason == want.Reason) {
			return true
		}
	}
	return false
}
