package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"

	"github.com/sbx-vm/sbx/machine"
)

func TestPlace(t *testing.T) {
	dir, file := fakeInfo{dir: true}, fakeInfo{}
	for _, test := range []struct {
		src, dst string
		srcIsDir bool
		at       fs.FileInfo
		want     string // empty: an error
	}{
		{"a/x.txt", "tmp", false, dir, "tmp/x.txt"},
		{"a/x.txt", "tmp/", false, dir, "tmp/x.txt"},
		{"a/x.txt", "y.txt", false, nil, "y.txt"},
		{"a/x.txt", "y.txt", false, file, "y.txt"},
		{"a/x.txt", "new/", false, nil, ""},
		{"a/x.txt", "y.txt/", false, file, ""},
		{"a/d", "tmp", true, dir, "tmp/d"},
		{"a/d/", "tmp", true, dir, "tmp/d"},
		{"a/d/.", "tmp", true, dir, "tmp"},
		{"a/d", "new", true, nil, "new"},
		{"a/d", "new/", true, nil, "new"},
		{"a/d", "y.txt", true, file, ""},
		{".", "tmp", true, dir, "tmp"},
	} {
		got, err := place(test.src, test.dst, test.srcIsDir, test.at)
		if (err != nil) != (test.want == "") || got != test.want {
			t.Errorf("place(%q, %q, %v, %v) = %q, %v; want %q", test.src, test.dst, test.srcIsDir, test.at, got, err, test.want)
		}
	}
}

func TestParseEnds(t *testing.T) {
	for _, test := range []struct {
		src, dst string
		from, to copyEnd
		bad      bool
	}{
		{src: "x", dst: "shop:/tmp", from: copyEnd{path: "x"}, to: copyEnd{guest: true, name: "shop", path: "/tmp"}},
		{src: ":a:b", dst: "x", from: copyEnd{guest: true, path: "a:b"}, to: copyEnd{path: "x"}},
		{src: "./a:b", dst: ":x", from: copyEnd{path: "./a:b"}, to: copyEnd{guest: true, path: "x"}},
		{src: "x", dst: "y", bad: true},
		{src: ":x", dst: ":y", bad: true},
		{src: "x", dst: "shop:", bad: true},
		{src: "", dst: ":y", bad: true},
	} {
		from, to, err := parseEnds(test.src, test.dst)
		if test.bad {
			if exitStatus(err) != statusUsage {
				t.Errorf("%q %q: %v", test.src, test.dst, err)
			}
			continue
		}
		if err != nil || from != test.from || to != test.to {
			t.Errorf("%q %q: %+v %+v %v", test.src, test.dst, from, to, err)
		}
	}
}

// sftpPair is a client of a real server on this machine's files.
func sftpPair(t *testing.T) *sftp.Client {
	t.Helper()
	clientEnd, serverEnd := net.Pipe()
	server, err := sftp.NewServer(serverEnd)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve() }()
	client, err := sftp.NewClientPipe(clientEnd, clientEnd, sftp.UseConcurrentWrites(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close(); <-served })
	return client
}

// cpWorld is a host project and a guest folder, both in temporary folders.
type cpWorld struct {
	app            *app
	spec           machine.Spec
	client         *sftp.Client
	project, guest string
}

func newCpWorld(t *testing.T) cpWorld {
	project, guest := t.TempDir(), t.TempDir()
	return cpWorld{
		app:     &app{Streams: Streams{Dir: project}},
		spec:    machine.Spec{Project: project, Workspace: machine.Workspace{Target: guest}},
		client:  sftpPair(t),
		project: project, guest: guest,
	}
}

func (w cpWorld) cp(src, dst string) error {
	from, to, err := parseEnds(src, dst)
	if err != nil {
		return err
	}
	o := cpOptions{app: w.app, src: from, dst: to}
	if from.guest {
		return o.fromGuest(context.Background(), w.spec, w.client)
	}
	return o.toGuest(context.Background(), w.spec, w.client)
}

// write makes files: "path" to content, "path/" to a folder, "path@" to a link.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, strings.TrimRight(name, "@/"))
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		case strings.HasSuffix(name, "@"):
			err = os.Symlink(content, p)
		case err == nil:
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// read is write's reverse.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch entry.Type() {
		case fs.ModeDir:
			files[rel+"/"] = ""
		case fs.ModeSymlink:
			files[rel+"@"], err = os.Readlink(p)
		default:
			var data []byte
			data, err = os.ReadFile(p)
			files[rel] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCopyBothWays(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 300_000) // several packets and buffers
	tree := map[string]string{
		"d/": "", "d/a": "A", "d/sub/": "", "d/sub/empty": "", "d/sub/large": large,
		"d/out@": "/etc/passwd", "d/in@": "sub/large", "d/name\nwith\x1bodd": "x", "d/\xff\xfe": "bytes",
	}
	for _, toGuest := range []bool{true, false} {
		w := newCpWorld(t)
		from, to, src, dst := w.project, w.guest, "d", ":"+"."
		if !toGuest {
			from, to, src, dst = w.guest, w.project, ":d", "."
		}
		write(t, from, tree)
		if err := os.Chmod(filepath.Join(from, "d/a"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := w.cp(src, dst); err != nil {
			t.Fatalf("to guest %v: %v", toGuest, err)
		}
		if got := read(t, to); !cmp.Equal(got, tree) {
			t.Errorf("to guest %v: %s", toGuest, cmp.Diff(tree, got))
		}
		if info, _ := os.Stat(filepath.Join(to, "d/a")); info.Mode().Perm() != 0o750 {
			t.Errorf("mode %v", info.Mode())
		}
		// Again, over what is there: the same.
		if err := w.cp(src, dst); err != nil {
			t.Errorf("second time: %v", err)
		}
		if got := read(t, to); !cmp.Equal(got, tree) {
			t.Errorf("second time: %s", cmp.Diff(tree, got))
		}
	}
}

// A guest shares the project: what it puts there must not lead a copy out of it.
func TestCopyDoesNotFollowTheGuestsLinks(t *testing.T) {
	w := newCpWorld(t)
	outside := t.TempDir()
	write(t, outside, map[string]string{"secret": "S"})
	write(t, w.guest, map[string]string{"f": "new", "d/secret": "new"})
	write(t, w.project, map[string]string{"link@": outside, "sub/f@": filepath.Join(outside, "secret")})

	for _, dst := range []string{"link", "link/", "link/x", "link/secret"} {
		if err := w.cp(":f", dst); err == nil {
			t.Errorf("cp :f %q went through the link", dst)
		}
	}
	if err := w.cp(":d/.", "link"); err == nil {
		t.Error("a folder's content went through the link")
	}
	if err := w.cp(":f", "sub"); err != nil {
		t.Errorf("a link is replaced, not written through: %v", err)
	}
	if got := read(t, outside); !cmp.Equal(got, map[string]string{"secret": "S"}) {
		t.Errorf("outside changed: %v", got)
	}
	if err := w.cp("link/secret", ":stolen"); err == nil {
		t.Error("a file was read through the guest's link")
	}
}

func TestCopyRefuses(t *testing.T) {
	w := newCpWorld(t)
	write(t, w.guest, map[string]string{"f": "x", "d/f": "x"})
	write(t, w.project, map[string]string{"f/": "", "d": "a file", "g": "x"})
	for _, test := range [][2]string{
		{":f", "."},       // a folder f is there
		{":d", "."},       // a file d is there
		{":missing", "."}, // nothing to copy
		{":f", "none/f"},  // no such folder
		{"g", ":none/g"},
	} {
		if err := w.cp(test[0], test[1]); err == nil {
			t.Errorf("cp %q %q: no error", test[0], test[1])
		}
	}
	for name := range read(t, w.project) {
		if strings.Contains(name, ".sbx-") {
			t.Errorf("%q was left behind", name)
		}
	}
}

// hostileTree lists what a hostile guest could.
type hostileTree struct {
	remoteTree
	names []string
	size  int64
	body  string
}

func (h hostileTree) Lstat(name string) (fs.FileInfo, error) {
	return fakeInfo{name: name, dir: name == "d" || strings.HasSuffix(name, "/d"), size: h.size}, nil
}

func (h hostileTree) ReadDir(string) ([]fs.FileInfo, error) {
	var infos []fs.FileInfo
	for _, name := range h.names {
		infos = append(infos, fakeInfo{name: name})
	}
	return infos, nil
}

func (h hostileTree) Open(string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(h.body)), nil
}

func TestCopyChecksWhatArrives(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	to := localTree{root}
	tests := map[string]hostileTree{
		"cut short":     {size: 10, body: "123"},
		"bottomless":    {names: []string{"d"}},
		"empty and not": {size: 0, body: strings.Repeat("x", maxUnsized+1)},
	}
	for name, from := range tests {
		src := "f"
		if name == "bottomless" {
			src = "d"
		}
		if err := (&copier{from: from, to: to}).copy(context.Background(), src, src, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := root.Stat("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file was left: %v", err)
	}
	if err := (&copier{from: hostileTree{size: 3, body: "12345"}, to: to}).copy(context.Background(), "grown", "grown", 0); err != nil {
		t.Errorf("a file that grew: %v", err)
	}
}

func TestComponent(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "/", "a/b", "/etc", "../x", "a\x00b"} {
		if component(bad) == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
	for _, good := range []string{"a", "...", "a\nb", "\xff", " ", "-rf"} {
		if err := component(good); err != nil {
			t.Error(err)
		}
	}
}

// fakeInfo is a listed entry.
type fakeInfo struct {
	name string
	dir  bool
	size int64
}

func (f fakeInfo) Name() string       { return f.name }
func (f fakeInfo) Size() int64        { return f.size }
func (f fakeInfo) IsDir() bool        { return f.dir }
func (f fakeInfo) ModTime() time.Time { return time.Time{} }
func (f fakeInfo) Sys() any           { return nil }
func (f fakeInfo) Mode() fs.FileMode {
	if f.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}
