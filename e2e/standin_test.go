package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// authorityName is what a client in the guest reads as the issuer where nothing was intercepted.
const authorityName = "sbx e2e authority"

// authority is that of the stand-ins: servers of the test's on loopback, with certificates that the world's
// host trusts as it would the real ones.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64
}

// standIns gives the world an authority that its sbx trusts, beside those of this machine.
func (w *world) standIns(t *testing.T) *authority {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("Go asks the system on " + runtime.GOOS + ", not SSL_CERT_FILE, which servers to believe")
	}
	a := &authority{made: 1}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: authorityName}, SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = a.sign(t, template)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	bundle, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if own := os.Getenv("SSL_CERT_FILE"); own != "" {
		bundle, err = os.ReadFile(own)
	}
	if err != nil {
		t.Fatal(err)
	}
	bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.WriteFile(w.bundle(), bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "SSL_CERT_FILE="+w.bundle())
	return a
}

// bundle is the file of the authorities that this world trusts.
func (w *world) bundle() string { return filepath.Join(w.base, "bundle.pem") }

// sign makes a key and a certificate for it, signed by the authority, or by itself to begin with.
func (a *authority) sign(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// serve answers HTTPS for names on a port of 127.0.0.1, which it gives.
func (a *authority) serve(t *testing.T, h http.Handler, names ...string) string {
	t.Helper()
	a.made++
	der, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, SerialNumber: big.NewInt(a.made), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ErrorLog: log.New(testLog{t}, names[0]+": ", 0), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(tls.NewListener(inner, config)) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return inner.Addr().String()
}

// testLog is a server's log in the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// userConfig writes the user's own file: where names lead, "NAME[:PORTS] ADDRESS" each, and more lines of network:.
func (w *world) userConfig(t *testing.T, hosts []string, network string) {
	t.Helper()
	var text strings.Builder
	text.WriteString("network:\n  host:\n")
	for _, h := range hosts {
		name, to, _ := strings.Cut(h, " ")
		fmt.Fprintf(&text, "    - {name: %q, to: %q}\n", name, to)
	}
	text.WriteString(network)
	path := filepath.Join(w.base, "config_home", "sbx", "config.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// bulk is a server to measure with: GET /bytes?n=N gives N zeroes, PUT takes a body and says how long it was.
func bulk(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n, err)
		return
	}
	var n int64
	if _, err := fmt.Sscan(r.URL.Query().Get("n"), &n); err != nil {
		fmt.Fprintln(w, "here")
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(n))
	block := make([]byte, 256<<10)
	for n > 0 {
		wrote, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return
		}
		n -= int64(wrote)
	}
}
