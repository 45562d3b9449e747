package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sbx-vm/sbx/image/archivetest"
	"github.com/sbx-vm/sbx/image/debian"
	"github.com/sbx-vm/sbx/image/fetch"
	"github.com/sbx-vm/sbx/machine/guest/boot"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const npmTarball = "npm, packed"

func testRecipe() Recipe {
	sum := sha512.Sum512([]byte(npmTarball))
	return Recipe{
		Name: "test", Codename: "trixie", Suites: []string{"trixie", "trixie-updates"}, Security: "trixie-security",
		Packages: []string{"tool"}, Kernel: map[string]string{"amd64": "linux-image-cloud"}, Modules: []string{"virtio_blk"},
		Stubs: []Stub{{Name: "no-initramfs", Provides: []string{"linux-initramfs-tool"}, Reason: "not here"}},
		Npm:   Npm{Version: "1.2.3", Integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:])},
	}
}

// world is an archive, a store and the options that connect them.
type world struct {
	*archivetest.Archive
	store   *Store
	options Options
	builds  atomic.Int64
	seen    BuildInput
	plan    boot.Plan
	members []string
	fail    error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Archive: archivetest.New(t)}
	kernel := map[string]string{
		"./boot/vmlinuz-6.12-test": "the kernel", "./usr/lib/modules/6.12-test/modules.builtin": "kernel/drivers/block/virtio_blk.ko\n",
	}
	w.Add(t, archivetest.Suite{Name: "trixie", Packages: []archivetest.Package{
		{Name: "base-files", Version: "13", Fields: "Essential: yes\n"},
		{Name: "e2fsprogs", Version: "1", Fields: "Depends: libc6\n"},
		{Name: "libc6", Version: "2.41"},
		{Name: "linux-image-6.12-test", Version: "1", Fields: "Depends: initramfs-tools | linux-initramfs-tool\n", Files: kernel},
		{Name: "linux-image-cloud", Version: "1", Fields: "Depends: linux-image-6.12-test\n"},
		{Name: "tool", Version: "1", Fields: "Depends: libc6\n", Files: map[string]string{"./usr/bin/tool": "v1"}},
	}})
	w.Put("npm/-/npm-1.2.3.tgz", []byte(npmTarball))
	w.Add(t, archivetest.Suite{Name: "trixie-security", ValidUntil: archivetest.Now().Add(time.Hour)})
	store, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store.pause = time.Millisecond
	w.store = store
	w.options = Options{
		Arch: "amd64", Mirror: w.URL, Registry: w.URL, Build: w.build, Now: archivetest.Now, Progress: silent{},
		Host: Host{Keys: w.Keys, Sources: Sources{Security: w.URL}},
	}
	t.Cleanup(func() { makeWritable(store) })
	return w
}

func makeWritable(s *Store) {
	entries, _ := os.ReadDir(s.images())
	for _, e := range entries {
		os.Chmod(filepath.Join(s.images(), e.Name()), 0o755)
		os.Chmod(filepath.Join(s.images(), e.Name(), modulesName), 0o755)
	}
}

// build stands for the machine: it reads the payload and marks the disk.
func (w *world) build(_ context.Context, in BuildInput) error {
	w.builds.Add(1)
	w.seen, w.members = in, nil
	file, err := os.Open(in.Payload)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewReader(file)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if header.Name == boot.PlanName {
			if err := json.NewDecoder(archive).Decode(&w.plan); err != nil {
				return err
			}
		}
		w.members = append(w.members, header.Name)
	}
	if w.fail != nil {
		return w.fail
	}
	root, err := os.OpenFile(in.Root, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.WriteString("a file system")
	return err
}

func (w *world) ensure(t *testing.T) (Image, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return w.store.Ensure(ctx, testRecipe(), w.options)
}

// checkClean says that nothing half-made lies in the store.
func (w *world) checkClean(t *testing.T, images int) {
	t.Helper()
	entries, err := os.ReadDir(w.store.images())
	if err != nil || len(entries) != images {
		t.Errorf("images folder holds %v, %v; want %d", entries, err, images)
	}
}

func TestEnsureBuildsOnceAndKeeps(t *testing.T) {
	w := newWorld(t)
	img, err := w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	w.checkClean(t, 1)
	if data, err := os.ReadFile(img.Kernel); err != nil || string(data) != "the kernel" || img.Release != "6.12-test" {
		t.Errorf("kernel is %q (%s), %v", data, img.Release, err)
	}
	if info, err := os.Stat(img.Root); err != nil || info.Size() != RootSize || info.Mode().Perm() != 0o444 {
		t.Errorf("root is %v, %v", info, err)
	}
	w.Close(t)
	again, err := w.ensure(t)
	if err != nil || again.ID != img.ID || w.builds.Load() != 1 {
		t.Errorf("second: %s, %v, %d builds", again.ID, err, w.builds.Load())
	}
}

// Close makes every later request a failure.
func (w *world) Close(t *testing.T) {
	t.Helper()
	w.Break(func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		t.Errorf("request for %s", r.URL)
		return false
	})
}

func TestPayloadIsInTheOrderOfUse(t *testing.T) {
	w := newWorld(t)
	if _, err := w.ensure(t); err != nil {
		t.Fatal(err)
	}
	want := []string{"plan.json", "debs/base-files.deb", "debs/libc6.deb", "debs/e2fsprogs.deb"}
	if len(w.members) < len(want) || strings.Join(w.members[:len(want)], " ") != strings.Join(want, " ") {
		t.Errorf("payload begins with %v", w.members)
	}
	all := strings.Join(w.members, " ")
	for _, name := range append(append(append([]string{w.plan.Npm}, w.plan.Packages...), w.plan.Essential...), w.plan.Mkfs...) {
		if strings.Count(all, name) != 1 {
			t.Errorf("plan names %s, payload is %v", name, w.members)
		}
	}
	packages := strings.Join(w.plan.Packages, " ")
	if strings.Index(packages, "no-initramfs") > strings.Index(packages, "linux-image-6.12-test") {
		t.Errorf("stub comes after what needs it: %s", packages)
	}
	for _, list := range w.plan.Lists {
		if !strings.HasPrefix(list.Path, "var/lib/apt/lists/127.0.0.1:") {
			t.Errorf("list at %s", list.Path)
		}
	}
	if len(w.plan.Lists) != 4 { // trixie and security, each signed text and index
		t.Errorf("lists are %v", w.plan.Lists)
	}
}

func TestSameInputsHaveTheSameLock(t *testing.T) {
	w := newWorld(t)
	img, err := w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(img.Dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Rm(img.ID); err != nil {
		t.Fatal(err)
	}
	w.checkClean(t, 0)
	img, err = w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(img.Dir, lockName))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("locks differ: %v", err)
	}
}

func TestRefreshFindsNewerPackages(t *testing.T) {
	w := newWorld(t)
	old, err := w.ensure(t)
	if err != nil {
		t.Fatal(err)
	}
	w.options.Refresh = true
	if same, err := w.ensure(t); err != nil || same.ID != old.ID || w.builds.Load() != 1 {
		t.Errorf("unchanged archive: %s, %v, %d builds", same.ID, err, w.builds.Load())
	}
	w.Add(t, archivetest.Suite{Name: "trixie-updates", Packages: []archivetest.Package{{Name: "tool", Version: "2"}}})
	fresh, err := w.ensure(t)
	if err != nil || fresh.ID == old.ID {
		t.Errorf("newer archive: %s, %v", fresh.ID, err)
	}
	w.checkClean(t, 2)
}

func TestSeveralCallersBuildOnce(t *testing.T) {
	w := newWorld(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if _, err := w.ensure(t); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if w.builds.Load() != 1 {
		t.Errorf("%d builds", w.builds.Load())
	}
}

func TestFaultsLeaveNothingAndTheNextTryContinues(t *testing.T) {
	isDeb := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "tool_1_amd64.deb") }
	flip := func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !isDeb(r) {
			return false
		}
		body = bytes.Clone(body)
		body[len(body)-1] ^= 0x80
		w.Write(body)
		return true
	}
	tests := []struct {
		name  string
		spoil func(w *world)
		want  error
		text  string
	}{
		{"flipped package", func(w *world) { w.Break(flip) }, fetch.ErrHash, "tool_1_amd64.deb"},
		{"missing package", func(w *world) {
			w.Break(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if isDeb(r) {
					w.WriteHeader(http.StatusNotFound)
				}
				return isDeb(r)
			})
		}, fetch.ErrNotFound, "tool_1_amd64.deb"},
		{"wrong key", func(w *world) { w.options.Host.Keys = [][]byte{} }, debian.ErrSignature, "not to be believed"},
		{"machine fails", func(w *world) { w.fail = errors.New("dpkg said no") }, nil, "dpkg said no"},
		{"unknown architecture", func(w *world) { w.options.Arch = "mips" }, nil, "mips"},
		{"nothing to build with", func(w *world) { w.options.Build = nil }, nil, "build it with"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			good := w.options
			test.spoil(w)
			_, err := w.ensure(t)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("error is %v", err)
			}
			w.checkClean(t, 0)
			// A download in flight may be cancelled with the one that failed; what is whole is kept.
			kept, asked := w.downloads(t), w.Asked("e2fsprogs_1_amd64.deb")
			w.Break(nil)
			w.fail, w.options = nil, good
			img, err := w.ensure(t)
			if err != nil {
				t.Fatalf("the next try: %v", err)
			}
			want := asked + 1
			if slices.Contains(kept, sumOf(img.Lock, "e2fsprogs")) {
				want = asked
			}
			if n := w.Asked("e2fsprogs_1_amd64.deb"); n != want {
				t.Errorf("a package was asked for %d times, want %d; kept were %v", n, want, kept)
			}
		})
	}
}

// downloads lists the hashes of the finished downloads.
func (w *world) downloads(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.store.blobs(), "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	return paths
}

// sumOf is the hash of a package of the lock.
func sumOf(l Lock, name string) string {
	i := slices.IndexFunc(l.Packages, func(p LockedPackage) bool { return p.Name == name })
	return l.Packages[i].SHA256
}

func TestDeadMirrorSaysWhatToSet(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w := newWorld(t)
	w.options.Mirror = "http://" + l.Addr().String() + "/debian"
	begin := time.Now()
	_, err = w.ensure(t)
	if !errors.Is(err, fetch.ErrUnreachable) || !strings.Contains(err.Error(), w.options.Mirror) || !strings.Contains(err.Error(), "image.mirror") {
		t.Errorf("error is %v", err)
	}
	if time.Since(begin) > 5*time.Second {
		t.Errorf("took %s", time.Since(begin))
	}
}
