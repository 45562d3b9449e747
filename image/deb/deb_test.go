package deb_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sbx-vm/sbx/image/archivetest"
	"github.com/sbx-vm/sbx/image/deb"
)

func write(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.deb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func repack(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := deb.Repack(path, out); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data, nil
}

func gz(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(data)
	w.Close()
	return out.Bytes()
}

func zst(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func TestRepackTakesEveryCompression(t *testing.T) {
	control := archivetest.Tar(t, map[string]string{"./control": "Package: a\n"})
	data := archivetest.Tar(t, map[string]string{"./usr/bin/a": "odd length!"})
	want := archivetest.Ar(archivetest.Member{Name: "debian-binary", Body: []byte("2.0\n")},
		archivetest.Member{Name: "control.tar", Body: control}, archivetest.Member{Name: "data.tar", Body: data})
	for suffix, pack := range map[string]func(*testing.T, []byte) []byte{
		".xz": archivetest.XZ, ".gz": gz, ".zst": zst, "": func(_ *testing.T, b []byte) []byte { return b },
	} {
		in := archivetest.Ar(archivetest.Member{Name: "debian-binary", Body: []byte("2.0\n")},
			archivetest.Member{Name: "control.tar" + suffix, Body: pack(t, control)}, archivetest.Member{Name: "data.tar" + suffix, Body: pack(t, data)})
		got, err := repack(t, write(t, in))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %v, %d bytes, want %d", suffix, err, len(got), len(want))
		}
	}
}

func TestRepackRefuses(t *testing.T) {
	good := archivetest.Deb(t, archivetest.Package{Name: "a", Version: "1", Files: map[string]string{"./a": "a"}})
	one := archivetest.Member{Name: "debian-binary", Body: []byte("2.0\n")}
	for name, data := range map[string][]byte{
		"empty":               nil,
		"no ar":               []byte("PK\x03\x04 and so on"),
		"cut header":          good[:len("!<arch>\n")+30],
		"cut in the data":     good[:len(good)-40],
		"no data":             archivetest.Ar(one),
		"members twice":       archivetest.Ar(one, one, one),
		"unknown compression": archivetest.Ar(one, archivetest.Member{Name: "control.tar.rar", Body: []byte("x")}),
		"negative size":       bytes.Replace(good, []byte("4         `\n"), []byte("-4        `\n"), 1),
		"endless members":     archivetest.Ar(make([]archivetest.Member, 100)...),
	} {
		if _, err := repack(t, write(t, data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDataReadsFiles(t *testing.T) {
	path := write(t, archivetest.Deb(t, archivetest.Package{Name: "a", Version: "1", Files: map[string]string{"./boot/x": "kernel"}}))
	var got string
	err := deb.Data(path, func(r io.Reader) error {
		archive := tar.NewReader(r)
		header, err := archive.Next()
		if err != nil {
			return err
		}
		body, err := io.ReadAll(archive)
		got = header.Name + "=" + string(body)
		return err
	})
	if err != nil || got != "./boot/x=kernel" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := deb.Data(write(t, archivetest.Ar()), nil); !errors.Is(err, deb.ErrFormat) {
		t.Errorf("package without data: %v", err)
	}
}

// A stub is a package as any other, and the same bytes each time.
func TestStub(t *testing.T) {
	stub := deb.Stub{Name: "sbx-none", Provides: []string{"aa", "bb"}, Reason: "nobody wants it"}
	var last []byte
	for range 2 {
		out, err := os.Create(filepath.Join(t.TempDir(), "stub.deb"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := stub.Write(out); err != nil {
			t.Fatal(err)
		}
		got, err := repack(t, out.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(got, []byte("Provides: aa, bb\n")) || last != nil && !bytes.Equal(got, last) {
			t.Errorf("stub is %q", got)
		}
		last = got
	}
}

func FuzzRepack(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		repack(t, write(t, data)) //nolint:errcheck // it must end without a panic
	})
}
