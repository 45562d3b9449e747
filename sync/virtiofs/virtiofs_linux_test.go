package virtiofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/journal"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // go-fuse's, as prepareProcess does
	goleak.VerifyTestMain(m)
}

// world is a workspace, a read-only folder, and a file beside them that must stay as it is.
type world struct {
	*frontend
	cfg         Config
	dir, canary string
	work, ro    uint64
	do          func(Command) Answer // of a world with a journal
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*Config) {})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newWorldWith(t *testing.T, edit func(*Config)) *world {
	t.Helper()
	ask := make(chan func(Command) Answer, 1)
	w := newWorldServed(t, edit, func(ctx context.Context, conn *net.UnixConn, cfg Config) error {
		return serve(ctx, conn, cfg, discard(), peer{listen: func(do func(Command) Answer) { ask <- do }})
	})
	w.do = <-ask
	return w
}

// readJournal reads what the server has kept since a checkpoint, of all that the guest did.
func (w *world) readJournal(dir string, id int) (*journal.History, error) {
	w.do(Command{Flush: true})
	return journal.Read(dir, "work", id)
}

// server is Serve, or what a test puts in its place.
type server func(ctx context.Context, conn *net.UnixConn, cfg Config) error

func newWorldServed(t *testing.T, edit func(*Config), serve server) *world {
	t.Helper()
	top := t.TempDir()
	w := &world{dir: filepath.Join(top, "work"), canary: filepath.Join(top, "canary")}
	for _, d := range []string{"work", "ro"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, w.canary, "alive")
	w.write(t, filepath.Join(top, "ro", "f"), "fixed")
	w.cfg = Config{
		Exports:  []Export{{Name: "work", Path: w.dir}, {Name: "ro", Path: filepath.Join(top, "ro"), ReadOnly: true}},
		GuestUID: 1000, GuestGID: 1001, Protect: []string{"/deploy/**"}, Mask: []string{"/hidden"},
	}
	edit(&w.cfg)
	w.frontend = startServed(t, w.cfg, serve)
	w.init()
	var err error
	w.work, err = w.lookup(1, "work")
	w.check(err)
	w.ro, err = w.lookup(1, "ro")
	w.check(err)
	t.Cleanup(func() {
		if b, err := os.ReadFile(w.canary); err != nil || string(b) != "alive" {
			t.Errorf("the file outside: %q, %v", b, err)
		}
	})
	return w
}

func (w *world) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *world) want(what string, err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestReadAndWriteThroughTheRings(t *testing.T) {
	w := newWorld(t)
	_, h, err := w.create(w.work, "a", unix.O_RDWR, 0o100640)
	w.check(err)
	data := bytes.Repeat([]byte("0123456789abcdef"), 65536) // 1 MiB
	out, err := w.fuse(16, 0, pack(h, 0), words(uint32(len(data)), 0), pack(0, 0), data)
	w.check(err)
	if n := binary.NativeEndian.Uint32(out); int(n) != len(data) {
		t.Fatalf("wrote %d of %d", n, len(data))
	}
	if got, err := os.ReadFile(filepath.Join(w.dir, "a")); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the host sees %d bytes, %v", len(got), err)
	}
	got, err := w.fuse(15, 0, pack(h, 16), words(1<<20, 0), pack(0, 0))
	w.check(err)
	if !bytes.Equal(got, data[16:]) {
		t.Errorf("read %d bytes, want the last %d", len(got), len(data)-16)
	}
}

func TestOwnersAndModes(t *testing.T) {
	w := newWorld(t)
	node, _, err := w.create(w.work, "a", unix.O_RDWR, 0o106755)
	w.check(err)
	out, err := w.fuse(3, node, pack(0, 0))
	w.check(err)
	attr := out[16:]
	e := binary.NativeEndian
	if mode, uid, gid := e.Uint32(attr[60:]), e.Uint32(attr[68:]), e.Uint32(attr[72:]); mode&0o6000 != 0 || uid != 1000 || gid != 1001 {
		t.Errorf("mode %o, owner %d:%d", mode, uid, gid)
	}
	_, err = w.setattr(node, 1<<0, 0o104777, 0, 0)
	w.check(err)
	if st, err := os.Stat(filepath.Join(w.dir, "a")); err != nil || st.Mode() != 0o777 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for owner, want := range map[[2]uint32]error{{1000, 1001}: nil, {0, 1001}: unix.EPERM, {1000, 0}: unix.EPERM, {4e9, 4e9}: unix.EPERM} {
		_, err := w.chown(1000, node, owner[0], owner[1])
		w.want("chown", err, want)
		_, err = w.chown(0, node, owner[0], owner[1])
		w.want("chown by root", err, nil)
	}
	for kind, want := range map[uint32]error{unix.S_IFCHR: unix.EPERM, unix.S_IFBLK: unix.EPERM, unix.S_IFIFO: nil, unix.S_IFSOCK: nil} {
		_, err := w.fuse(8, w.work, words(kind|0o666, 0x103, 0, 0), name("n"))
		w.want("mknod", err, want)
		os.Remove(filepath.Join(w.dir, "n"))
	}
}

// chown asks for another owner, as a user of the guest.
func (f *frontend) chown(as uint32, node uint64, uid, gid uint32) ([]byte, error) {
	return f.fuseAs(as, 4, node, words(1<<1|1<<2, 0), pack(0, 0, 0, 0, 0, 0), words(0, 0, 0, 0, 0, uid, gid, 0))
}

func (f *frontend) setattr(node uint64, valid, mode, uid, gid uint32) ([]byte, error) {
	return f.fuse(4, node, words(valid, 0), pack(0, 0, 0, 0, 0, 0), words(0, 0, 0, mode, 0, uid, gid, 0))
}

func TestHostileNames(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"..", ".", "", "a/b", "../canary", "/etc/passwd", strings.Repeat("x", 256)} {
		if _, err := w.lookup(w.work, n); err == nil {
			t.Errorf("lookup of %q was answered", n)
		}
		if _, _, err := w.create(w.work, n, unix.O_RDWR|unix.O_TRUNC, 0o644); err == nil {
			t.Errorf("create of %q was answered", n)
		}
		want := unix.EINVAL
		if len(n) > 255 {
			want = unix.ENAMETOOLONG // what a program in the guest expects
		}
		_, err := w.fuse(10, w.work, name(n))
		w.want("unlink", err, want)
		_, err = w.fuse(12, w.work, pack(w.work), name("x", n))
		if err == nil {
			t.Errorf("rename to %q was answered", n)
		}
	}
}

func TestLinksAreNeverFollowed(t *testing.T) {
	w := newWorld(t)
	for n, target := range map[string]string{"abs": w.canary, "up": "../canary", "dir": "..", "proc": "/proc/self/root"} {
		_, err := w.fuse(6, w.work, name(n, target))
		w.check(err)
		if got, err := os.Readlink(filepath.Join(w.dir, n)); err != nil || got != target {
			t.Errorf("%s: link to %q, %v", n, got, err)
		}
		node, err := w.lookup(w.work, n)
		w.check(err)
		_, err = w.fuse(14, node, words(unix.O_RDWR|unix.O_TRUNC, 0))
		w.want("open of a link", err, unix.ENXIO)
		_, err = w.lookup(node, "canary")
		w.want("lookup below a link", err, unix.ENOTDIR)
		_, _, err = w.create(w.work, n, unix.O_RDWR|unix.O_TRUNC, 0o644)
		w.want("create over a link", err, unix.ENXIO)
	}
}

func TestReadOnly(t *testing.T) {
	w := newWorld(t)
	f, err := w.lookup(w.ro, "f")
	w.check(err)
	_, err = w.fuse(14, f, words(unix.O_WRONLY, 0))
	w.want("open to write", err, unix.EROFS)
	_, err = w.fuse(14, f, words(unix.O_RDONLY|unix.O_TRUNC, 0))
	w.want("open to truncate", err, unix.EROFS)
	_, err = w.fuse(14, f, words(unix.O_RDONLY, 0))
	w.want("open to read", err, nil)
	_, err = w.setattr(f, 1, 0o777, 0, 0)
	w.want("chmod", err, unix.EROFS)
	for _, dir := range []uint64{w.ro, 1} {
		_, _, err = w.create(dir, "x", unix.O_RDWR, 0o644)
		w.want("create", err, unix.EROFS)
		_, err = w.fuse(9, dir, words(0o755, 0), name("d"))
		w.want("mkdir", err, unix.EROFS)
		_, err = w.fuse(10, dir, name("f"))
		w.want("unlink", err, unix.EROFS)
		_, err = w.fuse(12, dir, pack(w.work), name("f", "g"))
		if err == nil {
			t.Error("moved out of a read-only folder")
		}
	}
	_, err = w.fuse(13, w.work, pack(f), name("l"))
	w.want("link to a read-only file", err, unix.EROFS)
}

func TestProtectedPaths(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".git/hooks/pre-commit"), "host's")
	w.write(t, filepath.Join(w.dir, "evil/hooks/pre-commit"), "guest's")
	git, err := w.lookup(w.work, ".git")
	w.check(err)
	hooks, err := w.lookup(git, "hooks")
	w.check(err)
	hook, err := w.lookup(hooks, "pre-commit")
	w.check(err)
	_, err = w.fuse(14, hook, words(unix.O_RDONLY, 0))
	w.want("read a hook", err, nil)
	_, err = w.fuse(14, hook, words(unix.O_RDWR, 0))
	w.want("write a hook", err, unix.EPERM)
	_, err = w.setattr(hook, 1, 0o777, 0, 0)
	w.want("chmod a hook", err, unix.EPERM)
	_, err = w.fuse(13, w.work, pack(hook), name("alias"))
	w.want("link to a hook", err, unix.EPERM)
	_, _, err = w.create(hooks, "post-checkout", unix.O_RDWR, 0o755)
	w.want("new hook", err, unix.EPERM)
	_, _, err = w.create(w.work, "SBX.yaml", unix.O_RDWR, 0o644)
	w.want("sbx.yaml, absent and in another case", err, unix.EPERM)
	_, err = w.fuse(9, w.work, words(0o755, 0), name("deploy"))
	w.want("own pattern", err, unix.EPERM)
	_, err = w.fuse(12, git, pack(w.work), name("hooks", "h"))
	w.want("move hooks away", err, unix.EPERM)

	_, err = w.fuse(12, w.work, pack(w.work), name(".git", "old"))
	w.want("move .git with its hooks away", err, unix.EPERM)
	w.check(os.Rename(filepath.Join(w.dir, ".git"), filepath.Join(w.dir, "old")))
	_, err = w.fuse(14, hook, words(unix.O_RDWR, 0))
	w.want("write what the host made no hook any more", err, nil)
	_, err = w.fuse(12, w.work, pack(w.work), name("old", ".git"))
	w.want("move a folder with hooks to .git", err, unix.EPERM)
	_, err = w.fuse(6, w.work, name(".git", "evil"))
	w.want("link .git to a folder with hooks", err, unix.EPERM)
	_, err = w.fuse(8, w.work, words(unix.S_IFREG|0o644, 0, 0, 0), name(".git"))
	w.want("mknod .git", err, unix.EPERM)
	_, err = w.fuse(9, w.work, words(0o755, 0), name(".git"))
	w.want("mkdir .git", err, nil)
}

func (w *world) dirNode(parts ...string) uint64 {
	w.t.Helper()
	node := w.work
	for _, p := range parts {
		var err error
		node, err = w.lookup(node, p)
		w.check(err)
	}
	return node
}

func TestProtectedOnTheWay(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, ".git/modules/a/HEAD"), "")
	w.write(t, filepath.Join(w.dir, "evil/hooks/x"), "")
	w.write(t, filepath.Join(w.dir, "node_modules/p/.vscode/tasks.json"), "")
	w.write(t, filepath.Join(w.dir, "src/f"), "")
	git, module, modules := w.dirNode(".git"), w.dirNode(".git", "modules", "a"), w.dirNode(".git", "modules")
	_, _, err := w.create(git, "commondir", unix.O_RDWR, 0o644)
	w.want("commondir", err, unix.EPERM)
	_, _, err = w.create(module, "index.lock", unix.O_RDWR, 0o644)
	w.want("a file in a submodule's folder", err, nil)
	_, err = w.fuse(12, module, pack(module), name("index.lock", "index"))
	w.want("its move", err, nil)
	_, err = w.fuse(12, w.work, pack(modules), name("evil", "b"))
	w.want("move hooks into a submodule", err, unix.EPERM)
	_, err = w.fuse(6, module, name("deep", "../../../evil"))
	w.want("link to hooks in a submodule", err, unix.EPERM)
	_, err = w.fuse(9, w.dirNode("node_modules", "p"), words(0o755, 0), name(".idea"))
	w.want("a package's folder for an editor", err, nil)
	_, err = w.fuse(12, w.dirNode("node_modules"), pack(w.work), name("p", "p"))
	w.want("move a package out", err, unix.EXDEV)
	_, err = w.fuse(12, w.work, pack(w.work), name("node_modules", "old"))
	w.want("move all packages out", err, unix.EXDEV)
	_, err = w.fuse(12, w.work, pack(w.dirNode("node_modules")), name("src", "src"))
	w.want("move a folder in", err, nil)
}

func (w *world) commitConfig(dir uint64, content string) error {
	w.t.Helper()
	_, h, err := w.create(dir, "config.lock", unix.O_RDWR|unix.O_EXCL, 0o644)
	w.check(err)
	_, err = w.fuse(16, 0, pack(h, 0), words(uint32(len(content)), 0), pack(0, 0), []byte(content))
	w.check(err)
	_, err = w.fuse(12, dir, pack(dir), name("config.lock", "config"))
	if err == nil { // the handle of before must not reach what is in place now
		_, err := w.fuse(16, 0, pack(h, 0), words(6, 0), pack(0, 0), []byte("[evil]"))
		w.check(err)
	} else {
		_, err := w.fuse(10, dir, name("config.lock"))
		w.check(err)
	}
	return err
}

func TestGitConfigIsLookedAt(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, ".git/config")
	w.write(t, filepath.Join(w.dir, ".git/HEAD"), "")
	git := w.dirNode(".git")
	good := "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://example.org/x\n"
	w.want("harmless", w.commitConfig(git, good), nil)
	if b, err := os.ReadFile(path); err != nil || string(b) != good {
		t.Errorf("config is %q, %v", b, err)
	}
	w.want("fsmonitor", w.commitConfig(git, good+"[core]\n\tfsmonitor = evil\n"), unix.EPERM)
	w.write(t, path, good+"[core]\n\tpager = less\n")
	w.want("kept", w.commitConfig(git, good+"[core]\n\tpager = less\n[user]\n\tname = a\n"), nil)
	w.want("dropped", w.commitConfig(git, good), unix.EPERM)
	_, _, err := w.create(git, "config", unix.O_RDWR, 0o644)
	w.want("open to write", err, unix.EPERM)
	_, err = w.fuse(10, git, name("config"))
	w.want("unlink at the top", err, unix.EPERM)
	_, err = w.fuse(6, git, name("config.lock", "../evil"))
	w.check(err)
	_, err = w.fuse(12, git, pack(git), name("config.lock", "config"))
	w.want("a link", err, unix.ELOOP)
	w.write(t, filepath.Join(w.dir, "sub/.git/config"), good)
	_, err = w.fuse(10, w.dirNode("sub", ".git"), name("config"))
	w.want("unlink of a clone's", err, nil)
}

func TestRenameFlags(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, "a"), "A")
	w.write(t, filepath.Join(w.dir, "b"), "B")
	for flags, want := range map[uint32]error{
		unix.RENAME_NOREPLACE: unix.EEXIST, unix.RENAME_WHITEOUT: unix.EINVAL, 1 << 31: unix.EINVAL, unix.RENAME_EXCHANGE: nil,
	} {
		_, err := w.fuse(45, w.work, pack(w.work), words(flags, 0), name("a", "b"))
		w.want("rename2", err, want)
	}
	if b, err := os.ReadFile(filepath.Join(w.dir, "a")); err != nil || string(b) != "B" {
		t.Errorf("after the exchange a is %q, %v", b, err)
	}
}

func TestXattrs(t *testing.T) {
	w := newWorld(t)
	node, _, err := w.create(w.work, "a", unix.O_RDWR, 0o644)
	w.check(err)
	for attr, want := range map[string]error{"security.capability": unix.EPERM, "trusted.x": unix.EPERM, "system.posix_acl_access": unix.EOPNOTSUPP} {
		_, err := w.fuse(21, node, words(1, 0), name(attr), []byte("v"))
		w.want("set "+attr, err, want)
		_, err = w.fuse(22, node, words(64, 0), name(attr))
		w.want("get "+attr, err, unix.ENODATA)
	}
}

func TestLargeFolder(t *testing.T) {
	w := newWorld(t)
	const many = 3000
	for i := range many {
		w.write(t, filepath.Join(w.dir, "d", strings.Repeat("n", 1+i%50)+"-"+string(rune('a'+i%26))+time.Duration(i).String()), "")
	}
	dir, err := w.lookup(w.work, "d")
	w.check(err)
	for _, opcode := range []uint32{28, 44} {
		seen := w.list(dir, opcode)
		if len(seen) != many+2 {
			t.Errorf("opcode %d: %d names, want %d", opcode, len(seen), many+2)
		}
	}
}

// list reads a folder with small requests and returns its names.
func (w *world) list(dir uint64, opcode uint32) map[string]bool {
	out, err := w.fuse(27, dir, words(0, 0))
	w.check(err)
	e := binary.NativeEndian
	seen, handle, off := map[string]bool{}, e.Uint64(out), uint64(0)
	for {
		out, err := w.fuse(opcode, dir, pack(handle, off), words(4096, 0), pack(0, 0))
		w.check(err)
		if len(out) == 0 {
			return seen
		}
		for len(out) > 0 {
			if opcode == 44 {
				out = out[128:]
			}
			n := int(e.Uint32(out[16:]))
			off = e.Uint64(out[8:])
			if s := string(out[24 : 24+n]); seen[s] {
				w.t.Fatalf("%q came twice", s)
			} else {
				seen[s] = true
			}
			out = out[(24+n+7)/8*8:]
		}
	}
}

func TestResetForgetsAndBeginsAnew(t *testing.T) {
	w := newWorld(t)
	node, handle, err := w.create(w.work, "a", unix.O_RDWR, 0o644)
	w.check(err)
	done := w.next
	if base := w.stopRing(); base != uint64(done) {
		t.Errorf("ring stopped at %d, %d were served", base, done)
	}
	w.startRing()
	w.init()
	_, err = w.fuse(3, node, pack(0, 0))
	w.want("a node of before", err, unix.ESTALE)
	_, err = w.fuse(15, 0, pack(handle, 0), words(10, 0), pack(0, 0))
	w.want("a handle of before", err, unix.EBADF)
	_, err = w.lookup(w.work, "a")
	w.want("lookup", err, nil)
}

func TestBrokenRingHurtsTheGuestAlone(t *testing.T) {
	w := newWorld(t)
	w.descriptor(0, inAt, 40, 1, 0) // a loop
	w.offer(0)
	w.stopRing()
	w.startRing()
	w.init()
	_, err := w.lookup(1, "work")
	w.want("lookup after reset", err, nil)
}

func TestDescriptorsUsedUp(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 256 // of which the guest gets half
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t)
	var err error
	for i := 0; err == nil && i < 300; i++ {
		_, _, err = w.create(w.work, "f"+time.Duration(i).String(), unix.O_RDWR, 0o644)
	}
	w.want("one file too many", err, unix.ENFILE)
	w.stopRing()
	w.startRing()
	w.init()
	_, err = w.lookup(w.work, "f0s")
	w.want("lookup after reset", err, nil)
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	w := newWorld(t)
	for opcode := range uint32(64) {
		if opcode == 2 || opcode == 36 || opcode == 41 || opcode == 42 { // forget, interrupt, notify reply: no answer is due
			continue
		}
		for _, body := range [][]byte{nil, {0}, make([]byte, 80), bytes.Repeat([]byte{0xff}, 200)} {
			_, _ = w.fuse(opcode, 1<<63, body) // the test is that an answer comes
		}
	}
	w.init()
	_, err := w.lookup(1, "work")
	w.want("lookup afterwards", err, nil)
}

func TestBadConfigs(t *testing.T) {
	dir := t.TempDir()
	for name, cfg := range map[string]Config{
		"slash in name": {Exports: []Export{{Name: "a/b", Path: dir}}},
		"dots":          {Exports: []Export{{Name: "..", Path: dir}}},
		"relative":      {Exports: []Export{{Name: "a", Path: "."}}},
		"twice":         {Exports: []Export{{Name: "a", Path: dir}, {Name: "a", Path: dir}}},
		"absent":        {Exports: []Export{{Name: "a", Path: filepath.Join(dir, "no")}}},
		"bad pattern":   {Protect: []string{"a/../b"}},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := inherited(fds[0])
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fds[1])
		if err := Serve(context.Background(), conn, cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: served", name)
		}
	}
	if err := Main(t.Context(), strings.NewReader(`{"exprots":[]}`), io.Discard, -1, nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown key: %v", err)
	}
}

// TestAppendAndMappedMemory: what a guest appends goes to the end, wherever that is by now; its kernel may
// choose the same handle to write a page that another program has mapped, and that has its place.
func TestAppendAndMappedMemory(t *testing.T) {
	const fromCache = 1 << 0 // FUSE_WRITE_CACHE
	w := newWorld(t)
	_, h, err := w.create(w.work, "a", unix.O_WRONLY|unix.O_APPEND, 0o100644)
	w.check(err)
	write := func(text string, at uint64, flags uint32, open uint64) {
		t.Helper()
		_, err := w.fuse(16, 0, pack(h, at), words(uint32(len(text)), flags), pack(0, open), []byte(text))
		w.check(err)
	}
	write("0123", 0, 0, unix.O_WRONLY|unix.O_APPEND)
	f, err := os.OpenFile(filepath.Join(w.dir, "a"), os.O_WRONLY|os.O_APPEND, 0)
	w.check(err)
	_, err = f.WriteString("host")
	w.check(errors.Join(err, f.Close()))
	write("67", 4, 0, unix.O_WRONLY|unix.O_APPEND) // the guest does not know yet
	write("XX", 1, fromCache, 0)
	write("YY", 0, 0, unix.O_WRONLY) // F_SETFL took the flag away
	if got, err := os.ReadFile(filepath.Join(w.dir, "a")); err != nil || string(got) != "YYX3host67" {
		t.Errorf("the host reads %q, %v", got, err)
	}
}
