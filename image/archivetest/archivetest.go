// Package archivetest makes a small Debian archive, signed with a key of its
// own, for tests of what reads one. It is served by an httptest server on
// loopback and can be told to misbehave.
package archivetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Now is the archive's time: tests have no clock.
func Now() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// Package is one package of the archive.
type Package struct {
	Name, Version, Fields string            // Fields: further control lines, each ended by a newline
	Files                 map[string]string // of its data.tar
}

// Suite is one suite, signed when it is added.
type Suite struct {
	Name       string
	ValidUntil time.Time // zero: none
	Packages   []Package
}

// Archive is the server's state. Its key is Keys.
type Archive struct {
	URL  string
	Keys [][]byte // the public key, as debian.Repo wants it

	signer *openpgp.Entity
	mu     sync.Mutex
	files  map[string][]byte
	fault  func(w http.ResponseWriter, r *http.Request, body []byte) bool
	asked  map[string]int
}

// New starts an empty archive for the length of a test.
func New(t *testing.T) *Archive {
	t.Helper()
	made := func() time.Time { return Now().AddDate(-1, 0, 0) }
	signer, err := openpgp.NewEntity("archive", "test", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: made})
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := signer.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	a := &Archive{signer: signer, Keys: [][]byte{public.Bytes()}, files: map[string][]byte{}, asked: map[string]int{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.URL = server.URL + "/debian"
	return a
}

// Break has every later answer pass through fault, which returns true when it
// answered. nil ends that.
func (a *Archive) Break(fault func(w http.ResponseWriter, r *http.Request, body []byte) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = fault
}

// Put serves body at a path below URL.
func (a *Archive) Put(path string, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files["/debian/"+path] = body
}

// Asked says how often a path that ends in suffix was requested.
func (a *Archive) Asked(suffix string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for path, times := range a.asked {
		if strings.HasSuffix(path, suffix) {
			n += times
		}
	}
	return n
}

// ServeHTTP serves files with ranges.
func (a *Archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	body, ok := a.files[r.URL.Path]
	fault := a.fault
	a.asked[r.URL.Path]++
	a.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if fault != nil && fault(w, r, body) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// Add builds, signs and serves a suite for architecture amd64.
func (a *Archive) Add(t *testing.T, s Suite) {
	t.Helper()
	var index strings.Builder
	for _, p := range s.Packages {
		deb := Deb(t, p)
		name := fmt.Sprintf("pool/main/%s_%s_amd64.deb", p.Name, p.Version)
		a.Put(name, deb)
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: amd64\nPriority: optional\n%sFilename: %s\nSize: %d\nSHA256: %s\n\n",
			p.Name, p.Version, p.Fields, name, len(deb), hash(deb))
	}
	plain := []byte(index.String())
	packed := XZ(t, plain)
	a.Put("dists/"+s.Name+"/main/binary-amd64/by-hash/SHA256/"+hash(packed), packed)
	a.Put("dists/"+s.Name+"/InRelease", a.sign(t, release(s, plain, packed)))
}

func release(s Suite, plain, packed []byte) string {
	var r strings.Builder
	const form = "Mon, 02 Jan 2006 15:04:05 MST"
	fmt.Fprintf(&r, "Origin: Test\nCodename: %s\nDate: %s\nAcquire-By-Hash: yes\n", s.Name, Now().Add(-time.Hour).Format(form))
	if !s.ValidUntil.IsZero() {
		fmt.Fprintf(&r, "Valid-Until: %s\n", s.ValidUntil.Format(form))
	}
	fmt.Fprintf(&r, "SHA256:\n %s %d main/binary-amd64/Packages\n %s %d main/binary-amd64/Packages.xz\n", hash(plain), len(plain), hash(packed), len(packed))
	return r.String()
}

func (a *Archive) sign(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, a.signer.PrivateKey, &packet.Config{Time: Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

// Deb makes a .deb with .xz members, as Debian's are.
func Deb(t *testing.T, p Package) []byte {
	t.Helper()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\n", p.Name, p.Version)
	return Ar(
		Member{"debian-binary", []byte("2.0\n")},
		Member{"control.tar.xz", XZ(t, Tar(t, map[string]string{"./control": control}))},
		Member{"data.tar.xz", XZ(t, Tar(t, p.Files))},
	)
}

// Member is one of an ar archive.
type Member struct {
	Name string
	Body []byte
}

// Ar joins members.
func Ar(members ...Member) []byte {
	out := []byte("!<arch>\n")
	for _, m := range members {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 0, 0, 0, "100644", len(m.Body))
		out = append(out, m.Body...)
		if len(m.Body)%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

// Tar packs files.
func Tar(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// XZ compresses.
func XZ(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
