package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sqliteWriters: the index of a WAL is memory that all processes map.
const sqliteWriters = `
import os, sqlite3, sys
def connect():
    db = sqlite3.connect("life.db", timeout=120, isolation_level=None)
    if db.execute("pragma journal_mode=wal").fetchone()[0] != "wal": sys.exit("no WAL")
    return db
connect().execute("create table t (writer int, i int, pad text)")
children = []
for writer in range(2):
    pid = os.fork()
    if pid:
        children.append(pid)
        continue
    db = connect()
    for i in range(200):
        db.execute("begin immediate")
        db.execute("insert into t values (?, ?, ?)", (writer, i, "x" * 1000))
        db.execute("commit")
    os._exit(0)
for pid in children:
    if os.waitpid(pid, 0)[1]: sys.exit("a writer failed")
db = connect()
print(db.execute("select count(*), count(distinct writer * 1000 + i) from t").fetchone(), db.execute("pragma integrity_check").fetchone()[0])
if not os.path.exists("life.db-wal"): sys.exit("no log was written")
db.execute("pragma wal_checkpoint(truncate)")
`

// testSQLite: two processes write to one database, and nothing is lost.
func testSQLite(t *testing.T, w *world) {
	w.write(t, "sqlite.py", sqliteWriters)
	if out := w.ok(t, "exec", "--", "python3", "sqlite.py"); strings.TrimSpace(out) != "(400, 400) ok" {
		t.Errorf("the database: %q", out)
	}
	if db := w.read(t, "life.db"); !strings.HasPrefix(db, "SQLite format 3\x00") || len(db) < 400*1000 {
		t.Errorf("on the host the database has %d bytes", len(db))
	}
}

// mappedWriters are two processes that share memory with each other, and the file with the host.
const mappedWriters = `
import mmap, os, time
size = 1 << 20
with open("mapped", "wb") as f: f.truncate(size)
pid = os.fork()
mine, other = (0, 1) if pid else (1, 0)
f = open("mapped", "r+b")
memory = mmap.mmap(f.fileno(), size)
for page in range(mine, size // 4096, 2):
    memory[page * 4096:(page + 1) * 4096] = bytes([ord("a") + mine]) * 4096
while memory[size - 4096 * (2 - other)] != ord("a") + other: time.sleep(0.01)
memory.flush()
if not pid: os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
`

// besideMapped is a process that writes to a file, not to its memory, by a descriptor that does not read: what is mapped of the
// file, and what others have open, shows that at once, and keeps what was written to the memory of the same page.
const besideMapped = `
import mmap, os
with open("beside", "wb") as f: f.truncate(8192)
reader = os.open("beside", os.O_RDONLY); os.pread(reader, 8192, 0)
memory = mmap.mmap(os.open("beside", os.O_RDWR), 8192)
memory[0:6] = b"memory"
writer = os.open("beside", os.O_WRONLY)
for i in range(200):
    memory[4090:4096] = b"%06d" % i
    word = b"written %04d" % i
    assert os.pwrite(writer, word, 4000) == len(word)
    assert memory[4000:4000 + len(word)] == word, memory[4000:4020]
    assert os.pread(reader, len(word), 4000) == word, os.pread(reader, 20, 4000)
    assert memory[0:6] == b"memory" and memory[4090:4096] == b"%06d" % i, (memory[0:6], memory[4090:4096])
appender = os.open("beside", os.O_WRONLY | os.O_APPEND)
os.write(appender, b"end"); os.write(appender, b"!")
assert os.pread(reader, 10, 8192) == b"end!" and os.fstat(reader).st_size == 8196
memory.flush()
source = os.open("/bin/sh", os.O_RDONLY); size = os.fstat(source).st_size
copy = os.open("copied", os.O_WRONLY | os.O_CREAT)
while os.lseek(copy, 0, os.SEEK_CUR) < size: assert os.sendfile(copy, source, None, 1 << 16) > 0
assert open("copied", "rb").read() == open("/bin/sh", "rb").read()
`

// testMapped: the host sees what processes wrote to memory that they share.
func testMapped(t *testing.T, w *world) {
	w.write(t, "beside.py", besideMapped)
	w.ok(t, "exec", "--", "python3", "beside.py")
	got := w.read(t, "beside")
	if len(got) != 8196 {
		t.Fatalf("%d bytes were written beside a mapping", len(got))
	}
	for at, want := range map[int]string{0: "memory", 4000: "written 0199", 4090: "000199", 8192: "end!"} {
		if is := got[at : at+len(want)]; is != want {
			t.Errorf("beside a mapping, at %d: %q, want %q", at, is, want)
		}
	}
	w.write(t, "mapped.py", mappedWriters)
	w.ok(t, "exec", "--", "python3", "mapped.py")
	data := w.read(t, "mapped")
	for page := range 256 {
		if want := []byte{byte('a' + page%2)}; len(data) != 1<<20 || bytes.Count([]byte(data[page*4096:(page+1)*4096]), want) != 4096 {
			t.Fatalf("%d bytes, page %d is not %q", len(data), page, want)
		}
	}
}

// folderWatcher says a line for each event of a folder.
const folderWatcher = `require("fs").watch("watchdir", (kind, name) => console.log(kind, name))
console.log("ready")
setTimeout(() => process.exit(1), 120000)`

// testWatchFolder: who watches a folder hears that the host's user makes, renames and removes names in it.
func testWatchFolder(t *testing.T, w *world) {
	dir := filepath.Join(w.project, "watchdir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "watchdir/old", "")
	w.write(t, "watchdir/file", "")
	w.write(t, "folderwatcher.js", folderWatcher)
	cmd := w.command("exec", "--", "node", "folderwatcher.js")
	out := &buffer{}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	copied := make(chan struct{})
	go func() { defer close(copied); out.ReadFrom(pipe) }()
	lines := func() int { return strings.Count(out.String(), "\n") }
	within(t, time.Minute, "the program watches", func() bool { return lines() > 0 })
	for _, edit := range []struct {
		name string
		do   func() error
	}{
		{"remove", func() error { return os.Remove(filepath.Join(dir, "old")) }},
		{"rename", func() error { return os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "other")) }},
		{"make a folder", func() error { return os.Mkdir(filepath.Join(dir, "sub"), 0o755) }},
		{"make a file", func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) }},
	} {
		before := lines()
		if err := edit.do(); err != nil {
			t.Fatal(err)
		}
		within(t, 20*time.Second, "the guest hears: "+edit.name, func() bool { return lines() > before })
		for quiet := -1; quiet != lines(); time.Sleep(300 * time.Millisecond) { // all events of the one before the next
			quiet = lines()
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	<-copied
}

// watcher holds files open and knows all about them; once the host has edited them, it looks again. It may believe
// what it knew for a second.
const watcher = `
import mmap, os, time
log = open("edits/log", "rb"); before = log.read()
memory = mmap.mmap(os.open("edits/same", os.O_RDONLY), 4096, prot=mmap.PROT_READ); memory[:4]
replaced = open("edits/replaced", "rb")
known = {n: os.lstat("edits/" + n) for n in os.listdir("edits")}
for n in known:
    if os.path.isfile("edits/" + n): open("edits/" + n, "rb").read()
assert not os.path.exists("edits/new")
open("edits-known", "w").close()
while not os.path.exists("edits-made"): time.sleep(0.02)
time.sleep(1.1)
def same(what, got, want):
    if got != want: print(what, repr(got)[:200], "want", repr(want)[:200])
def content(n): return open("edits/" + n, "rb").read()
same("same size", content("same")[:4], b"HOST")
same("its memory", memory[:4], b"HOST")
same("log", log.read(), b"appended\n")
same("longer", (content("longer"), os.stat("edits/longer").st_size), (b"longer than before", 18))
same("shorter", (content("shorter"), os.stat("edits/shorter").st_size), (b"s", 1))
same("replaced", content("replaced"), b"by another file")
same("what was open of it", replaced.read(), b"the first file")
same("gone", os.path.exists("edits/gone"), False)
same("renamed", (os.path.exists("edits/renamed"), content("other name")), (False, b"renamed"))
same("new", content("new"), b"new")
same("mode", os.stat("edits/mode").st_mode & 0o777, 0o755)
same("times", os.stat("edits/times").st_mtime, 1e9)
same("link", os.readlink("edits/link"), "other")
same("folder", sorted(os.listdir("edits/moved")), ["deep", "more"])
same("kind", os.path.isdir("edits/kind"), True)
same("listing", sorted(os.listdir("edits")), sorted((set(known) - {"gone", "renamed", "folder"}) | {"other name", "new", "moved"}))
`

// testHostEdits: what the host's user does shows in the guest, also to who has the files open.
func testHostEdits(t *testing.T, w *world) {
	dir := filepath.Join(w.project, "edits")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(dir, "folder/deep"), 0o755))
	for name, content := range map[string]string{
		"same": strings.Repeat("-", 4096), "log": "first\n", "longer": "long", "shorter": "shorter", "replaced": "the first file",
		"gone": "gone", "renamed": "renamed", "mode": "", "times": "", "kind": "a file",
	} {
		w.write(t, "edits/"+name, content)
	}
	check(os.Symlink("one", filepath.Join(dir, "link")))
	w.write(t, "watcher.py", watcher)
	done := make(chan result, 1)
	go func() { done <- w.run("exec", "--", "python3", "watcher.py") }()
	within(t, time.Minute, "the guest knows the files", func() bool {
		if len(done) > 0 {
			t.Fatalf("it ended: %+v", <-done)
		}
		_, err := os.Stat(filepath.Join(w.project, "edits-known"))
		return err == nil
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	same, err := os.OpenFile(at("same"), os.O_WRONLY, 0)
	check(err)
	_, err = same.WriteString("HOST")
	check(err)
	check(same.Close())
	log, err := os.OpenFile(at("log"), os.O_WRONLY|os.O_APPEND, 0)
	check(err)
	_, err = log.WriteString("appended\n")
	check(err)
	check(log.Close())
	w.write(t, "edits/longer", "longer than before")
	check(os.Truncate(at("shorter"), 1))
	w.write(t, "another", "by another file")
	check(os.Rename(filepath.Join(w.project, "another"), at("replaced")))
	check(os.Remove(at("gone")))
	check(os.Rename(at("renamed"), at("other name")))
	w.write(t, "edits/new", "new")
	check(os.Chmod(at("mode"), 0o755))
	check(os.Chtimes(at("times"), time.Unix(1e9, 0), time.Unix(1e9, 0)))
	check(os.Remove(at("link")))
	check(os.Symlink("other", at("link")))
	w.write(t, "edits/folder/more", "")
	check(os.Rename(at("folder"), at("moved")))
	check(os.Remove(at("kind")))
	check(os.Mkdir(at("kind"), 0o755))
	w.write(t, "edits-made", "")
	if r := <-done; r.status != 0 || r.out != "" {
		t.Errorf("status %d\n%s%s", r.status, r.out, r.err)
	}
}
