package build

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type member struct {
	name, link, text string
	kind             byte
	mode             int64
}

func pack(t *testing.T, members ...member) *tar.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Linkname: m.link, Typeflag: m.kind, Mode: m.mode, Size: int64(len(m.text)), Uid: os.Getuid(), Gid: os.Getgid()}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tar.NewReader(&b)
}

func extractAll(t *testing.T, root string, archive *tar.Reader) error {
	t.Helper()
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := extract(root, h, archive); err != nil {
			return err
		}
	}
}

// A package's files come out as dpkg would lay them out: links of the merged /usr
// stay links, hard links and modes hold, nothing lands outside.
func TestExtract(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	err := extractAll(t, root, pack(t,
		member{name: "./", kind: tar.TypeDir, mode: 0o755},
		member{name: "./usr/", kind: tar.TypeDir, mode: 0o755},
		member{name: "./usr/bin/", kind: tar.TypeDir, mode: 0o755},
		member{name: "./bin", kind: tar.TypeSymlink, link: "usr/bin"},
		member{name: "./bin/", kind: tar.TypeDir, mode: 0o700},
		member{name: "./bin/su", kind: tar.TypeReg, mode: 0o4755, text: "su"},
		member{name: "./usr/bin/also", kind: tar.TypeLink, link: "./usr/bin/su"},
		member{name: "./bin/su", kind: tar.TypeReg, mode: 0o4755, text: "again"},
		member{name: "./tmp", kind: tar.TypeDir, mode: 0o1777},
		member{name: "../../outside", kind: tar.TypeReg, mode: 0o644, text: "x"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		"bin": os.ModeSymlink | 0o777, "usr/bin": os.ModeDir | 0o755, "usr/bin/su": os.ModeSetuid | 0o755,
		"tmp": os.ModeDir | os.ModeSticky | 0o777, "outside": 0o644,
	} {
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %v (%v)", path, info, want, err)
		}
	}
	for path, want := range map[string]string{"usr/bin/su": "again", "usr/bin/also": "su"} {
		if data, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(root), "outside")); err == nil {
		t.Error("a file was laid outside of the root")
	}
	if err := extractAll(t, root, pack(t, member{name: "dev/sda", kind: tar.TypeBlock})); err == nil {
		t.Error("a device came out of a package")
	}
}

func TestReadPlan(t *testing.T) {
	for name, c := range map[string]struct {
		first member
		ok    bool
	}{
		"good":          {member{name: "plan.json", kind: tar.TypeReg, text: `{"version":1,"packages":["debs/a.deb"]}`}, true},
		"other version": {member{name: "plan.json", kind: tar.TypeReg, text: `{"version":2}`}, false},
		"no JSON":       {member{name: "plan.json", kind: tar.TypeReg, text: `{`}, false},
		"other file":    {member{name: "debs/a.deb", kind: tar.TypeReg, text: `{"version":1}`}, false},
	} {
		b := &Builder{}
		if err := b.readPlan(pack(t, c.first)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		} else if c.ok && len(b.plan.Packages) != 1 {
			t.Errorf("%s: %+v", name, b.plan)
		}
	}
	if err := (&Builder{}).readPlan(tar.NewReader(strings.NewReader(""))); err == nil {
		t.Error("an empty payload has a plan")
	}
}
