// Package debian is a client of Debian's archive: it says which packages, in
// which versions and with which hashes, a list of names comes to.
//
// Trust starts at the archive's OpenPGP keys, which sbx carries. An InRelease
// is believed when one of them signed it and its Valid-Until has not passed; an
// index when the InRelease names its hash; a package when the index names its.
// Nothing else of a mirror is believed, so plain HTTP and a foreign mirror will do.
//
// Resolution is deterministic: the same indexes and the same names give the
// same list in the same order. It is no SAT solver. It takes the newest version
// of each name and the first alternative that exists, as a fresh install of a
// stable release does, and refuses what does not fit together.
package debian

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/sbx-vm/sbx/image/fetch"
)

// Repo is one suite on one mirror.
type Repo struct {
	Base  string   // URI, no trailing slash: http://…/debian
	Suite string   // trixie, trixie-updates, trixie-security
	Keys  [][]byte // OpenPGP public keys (binary) any one of which must have signed
}

// Index is a suite's verified state for one architecture.
type Index struct {
	Repo      Repo
	InRelease []byte // as it was signed
	Packages  []Package
	Raw       []byte // the uncompressed Packages file
}

// Limits: Debian's InRelease is 140 KiB, its Packages file 57 MB (xz: 10 MB).
const (
	maxInRelease = 4 << 20
	maxPackages  = 256 << 20
)

// ErrMirror wraps failures to reach or to believe a mirror.
var ErrMirror = errors.New("debian mirror")

// Load fetches and verifies the index of component main for a Debian
// architecture. now is the wall clock, for Valid-Until.
func (r Repo) Load(ctx context.Context, c *fetch.Client, arch string, now time.Time) (*Index, error) {
	inRelease, err := c.Text(ctx, r.url("InRelease"), maxInRelease)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrMirror, r.Base, err)
	}
	release, err := Verify(inRelease, r.Keys, now)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %s: %w", ErrMirror, r.Base, r.Suite, err)
	}
	if release.Codename != r.Suite {
		return nil, fmt.Errorf("%w %s: asked for %s, got the release file of %q", ErrMirror, r.Base, r.Suite, release.Codename)
	}
	raw, err := r.packages(ctx, c, release, arch)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %s: %w", ErrMirror, r.Base, r.Suite, err)
	}
	packages, err := ParsePackages(raw, arch)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %s: %w", ErrMirror, r.Base, r.Suite, err)
	}
	for i := range packages {
		packages[i].URL = r.Base + "/" + packages[i].Filename
	}
	return &Index{Repo: r, InRelease: inRelease, Packages: packages, Raw: raw}, nil
}

// packages fetches the Packages file and returns it uncompressed.
func (r Repo) packages(ctx context.Context, c *fetch.Client, release Release, arch string) ([]byte, error) {
	name := "main/binary-" + arch + "/Packages"
	packed, ok := release.Files[name+".xz"]
	if !ok {
		return nil, fmt.Errorf("release file names no %s.xz", name)
	}
	plain, ok := release.Files[name]
	if !ok || plain.Size > maxPackages {
		return nil, fmt.Errorf("release file names no %s of a sane size", name)
	}
	file := fetch.File{URL: r.url(name + ".xz"), SHA256: packed.SHA256, Size: packed.Size}
	if release.ByHash {
		file.URL = r.url(path.Dir(name) + "/by-hash/SHA256/" + packed.SHA256)
	}
	at, err := c.Get(ctx, file)
	if err != nil {
		return nil, err
	}
	return unpackIndex(at, plain)
}

func (r Repo) url(name string) string {
	return r.Base + "/dists/" + r.Suite + "/" + name
}

// ListName is the name that apt gives the file of this suite in
// /var/lib/apt/lists (apt-pkg's URItoFileName).
func (r Repo) ListName(name string) string {
	_, rest, ok := strings.Cut(r.url(name), "://")
	if !ok {
		rest = r.url(name)
	}
	if host, tail, ok := strings.Cut(rest, "/"); ok {
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			rest = host[at+1:] + "/" + tail
		}
	}
	var b strings.Builder
	for _, c := range []byte(rest) {
		switch {
		case c == '/':
			b.WriteByte('_')
		case c <= 0x20 || c >= 0x7f || strings.IndexByte("\\|{}[]<>\"^~_=!@#$%&*", c) >= 0:
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
