package debian_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/image/archivetest"
	"github.com/sbx-vm/sbx/image/debian"
	"github.com/sbx-vm/sbx/image/fetch"
)

func load(t *testing.T, r debian.Repo, now time.Time) (*debian.Index, error) {
	t.Helper()
	http := fetch.NewHTTP()
	t.Cleanup(http.CloseIdleConnections)
	return r.Load(context.Background(), &fetch.Client{HTTP: http, Dir: t.TempDir(), Pause: time.Millisecond}, "amd64", now)
}

func archive(t *testing.T) (*archivetest.Archive, debian.Repo) {
	t.Helper()
	a := archivetest.New(t)
	a.Add(t, archivetest.Suite{
		Name: "trixie", ValidUntil: archivetest.Now().Add(24 * time.Hour),
		Packages: []archivetest.Package{{Name: "hello", Version: "1:2.0-1"}},
	})
	return a, debian.Repo{Base: a.URL, Suite: "trixie", Keys: a.Keys}
}

func TestLoadBelievesWhatIsSigned(t *testing.T) {
	a, repo := archive(t)
	index, err := load(t, repo, archivetest.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(index.Packages) != 1 || index.Packages[0].Name != "hello" || !strings.HasPrefix(index.Packages[0].URL, a.URL+"/pool/") {
		t.Errorf("packages are %+v", index.Packages)
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name  string
		now   time.Time
		spoil func(t *testing.T, a *archivetest.Archive, r *debian.Repo)
		want  error
		text  string
	}{
		{name: "another key", want: debian.ErrSignature, spoil: func(t *testing.T, _ *archivetest.Archive, r *debian.Repo) {
			r.Keys = archivetest.New(t).Keys
		}},
		{name: "no key", want: debian.ErrSignature, spoil: func(_ *testing.T, _ *archivetest.Archive, r *debian.Repo) { r.Keys = nil }},
		{name: "changed text", want: debian.ErrSignature, spoil: change("InRelease", "Origin: Test", "Origin: Tost")},
		{name: "text around the signed part", want: debian.ErrSignature,
			spoil: change("InRelease", "-----END PGP SIGNATURE-----", "-----END PGP SIGNATURE-----\nCodename: sid\n")},
		{name: "no signature at all", want: debian.ErrSignature, spoil: func(_ *testing.T, a *archivetest.Archive, _ *debian.Repo) {
			a.Put("dists/trixie/InRelease", []byte("Codename: trixie\n"))
		}},
		{name: "out of date", now: archivetest.Now().Add(48 * time.Hour), want: debian.ErrSignature, text: "valid until"},
		{name: "from the future", now: archivetest.Now().Add(-48 * time.Hour), want: debian.ErrSignature},
		{name: "another suite's release", want: debian.ErrMirror, text: `"trixie"`, spoil: func(t *testing.T, a *archivetest.Archive, r *debian.Repo) {
			a.Break(func(w http.ResponseWriter, _ *http.Request, body []byte) bool { w.Write(body); return true })
			r.Suite = "bookworm"
			a.Put("dists/bookworm/InRelease", inRelease(t, a))
		}},
		{name: "changed index", want: fetch.ErrHash, spoil: func(_ *testing.T, a *archivetest.Archive, _ *debian.Repo) {
			a.Break(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
				if !strings.Contains(r.URL.Path, "by-hash") {
					return false
				}
				flipped := bytes.Clone(body)
				flipped[len(flipped)/2] ^= 1
				w.Write(flipped)
				return true
			})
		}},
		{name: "no such suite", want: fetch.ErrNotFound, spoil: func(_ *testing.T, _ *archivetest.Archive, r *debian.Repo) { r.Suite = "sid" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, repo := archive(t)
			now := archivetest.Now()
			if !test.now.IsZero() {
				now = test.now
			}
			if test.spoil != nil {
				test.spoil(t, a, &repo)
			}
			_, err := load(t, repo, now)
			if !errors.Is(err, test.want) || !errors.Is(err, debian.ErrMirror) || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("error is %v", err)
			}
			if !strings.Contains(err.Error(), a.URL) {
				t.Errorf("error does not name the mirror: %v", err)
			}
		})
	}
}

func inRelease(t *testing.T, a *archivetest.Archive) []byte {
	t.Helper()
	c := fetch.NewHTTP()
	defer c.CloseIdleConnections()
	text, err := (&fetch.Client{HTTP: c}).Text(context.Background(), a.URL+"/dists/trixie/InRelease", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func change(suffix, from, to string) func(*testing.T, *archivetest.Archive, *debian.Repo) {
	return func(_ *testing.T, a *archivetest.Archive, _ *debian.Repo) {
		a.Break(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if strings.HasSuffix(r.URL.Path, suffix) {
				body = []byte(strings.Replace(string(body), from, to, 1))
			}
			w.Write(body)
			return true
		})
	}
}

// The keys that sbx carries read as keys, each kind for each release.
func TestCarriedKeysAreKeys(t *testing.T) {
	for _, release := range []string{"trixie", "bookworm"} {
		for _, kind := range []string{"automatic", "stable", "security-automatic"} {
			key, err := os.ReadFile("../keys/debian-archive-" + release + "-" + kind + ".gpg")
			if err != nil {
				t.Fatal(err)
			}
			_, err = debian.Verify([]byte("-----BEGIN PGP SIGNED MESSAGE-----\n"), [][]byte{key}, archivetest.Now())
			if !errors.Is(err, debian.ErrSignature) {
				t.Errorf("%s %s: %v", release, kind, err)
			}
		}
	}
}

// Names as apt 3.0 wrote them for the same sources.
func TestListName(t *testing.T) {
	for base, want := range map[string]string{
		"http://mirror.example.org/debian":           "mirror.example.org_debian_dists_trixie_InRelease",
		"https://user:pw@mirror.example.org/debian":  "mirror.example.org_debian_dists_trixie_InRelease",
		"http://mirror.example.org:8080/a_b/~debian": "mirror.example.org:8080_a%5fb_%7edebian_dists_trixie_InRelease",
	} {
		if got := (debian.Repo{Base: base, Suite: "trixie"}).ListName("InRelease"); got != want {
			t.Errorf("%s: got %s, want %s", base, got, want)
		}
	}
}
