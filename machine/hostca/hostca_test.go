package hostca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlyCertificatesLeaveTheHost: a bundle that an administrator made can hold a
// private key beside the certificate.
func TestOnlyCertificatesLeaveTheHost(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("an authority")}))
	bundle := "# ours\n" + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) + certificate
	path := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(path, []byte(bundle), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Extra(func(name string) string { return map[string]string{"SSL_CERT_FILE": path}[name] })
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, certificate) || strings.Contains(got, "PRIVATE") || strings.Contains(got, "# ours") {
		t.Errorf("the guest would get %q", got)
	}
}

func TestTheDistributionsBundleIsNoExtra(t *testing.T) {
	const own = "/etc/ssl/certs/ca-certificates.crt"
	with, err := Extra(func(name string) string { return map[string]string{"SSL_CERT_FILE": own}[name] })
	if err != nil {
		t.Fatal(err)
	}
	without, err := Extra(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if with != without {
		t.Errorf("%s adds %d bytes that every guest has", own, len(with)-len(without))
	}
}

func TestMissingBundleIsAnError(t *testing.T) {
	if _, err := Extra(func(string) string { return "/nonexistent/ca.pem" }); err == nil {
		t.Error("SSL_CERT_FILE of nothing was accepted")
	}
}
