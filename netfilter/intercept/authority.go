package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour // a sandbox is rarely older
	leafLife      = 7 * 24 * time.Hour
	clockSkew     = time.Hour // a guest's clock may be behind
	maxLeaves     = 1024
	// leafRate and leafBurst bound how many names a guest makes us sign for (a wildcard has any number).
	leafRate  = 20
	leafBurst = 200
)

// ErrBusy says that a guest asks for certificates faster than any honest one.
var ErrBusy = errors.New("too many new names at once")

// Authority signs a certificate for each name that is intercepted. Its key never leaves the host, and its
// certificate is trusted by one guest. It is safe for concurrent use.
type Authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	leaf   *ecdsa.PrivateKey // of all leaves: they differ in name alone
	leaves *lru.Cache[string, *tls.Certificate]
	rate   *rate.Limiter
	now    func() time.Time
}

// NewAuthority makes the authority of a sandbox: its certificate and its private key, both in PEM.
func NewAuthority(sandbox string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make an authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "sbx " + sandbox, Organization: []string{"sbx"}},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make an authority: %w", err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make an authority: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), nil
}

// LoadAuthority takes what NewAuthority made.
func LoadAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("the sandbox's authority: is none that sbx made")
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's authority: %w", err)
	}
	leaves, err := lru.New[string, *tls.Certificate](maxLeaves)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's authority: %w", err)
	}
	return &Authority{cert: pair.Leaf, key: key, leaf: leaf, leaves: leaves, rate: rate.NewLimiter(leafRate, leafBurst), now: time.Now}, nil
}

// Leaf gives the certificate for a canonical name: the same for half its life, then another. One from a
// future that a corrected clock took back is not used.
func (a *Authority) Leaf(name string) (*tls.Certificate, error) {
	now := a.now()
	if known, ok := a.leaves.Get(name); ok && now.After(known.Leaf.NotBefore) && now.Before(known.Leaf.NotAfter.Add(-leafLife/2)) {
		return known, nil
	}
	if !a.rate.AllowN(now, 1) {
		return nil, ErrBusy
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{name}, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leaf, Leaf: leaf}
	a.leaves.Add(name, cert)
	return cert, nil
}

// Config is how the guest's side of an intercepted connection to name is served: HTTP/1.1 alone, and no
// resumption, which would carry one name's session to another.
func (a *Authority) Config(name string) (*tls.Config, error) {
	leaf, err := a.Leaf(name)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
	}, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}
