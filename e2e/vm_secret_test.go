package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// keyServer wants keys, and sends back in a header of its own what it got.
type keyServer struct {
	mu     sync.Mutex
	values []string          // that were made for it
	got    map[string]string // path to what stood in the headers of keys
}

// make gives a new key.
func (k *keyServer) make(prefix string) string {
	value := prefix + rand.Text()
	k.values = append(k.values, value)
	return value
}

func (k *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("x-api-key") + r.Header.Get("authorization")
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.got == nil {
		k.got = map[string]string{}
	}
	k.got[r.URL.Path] = key
	w.Header().Set("x-you-sent", key)
	_, _ = io.WriteString(w, "ok\n")
}

func (k *keyServer) at(path string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.got[path]
}

// testSecret is a secret's life: set, used in the guest and in a container, found nowhere but
// in the store and on its way out, removed.
func testSecret(t *testing.T, l *lab) {
	value := l.keys.make("sk-real-")
	if r := l.runIn(value+"\n", "secret", "set", "SBX_E2E_KEY", "--stdin"); r.status != 0 {
		t.Fatalf("set: %d %s", r.status, r.err)
	}
	t.Cleanup(func() { l.run("secret", "rm", "SBX_E2E_KEY") }) // this user's keyring may hold it
	placeholder := strings.TrimSpace(l.sh(t, "echo $SBX_E2E_KEY"))
	if !strings.Contains(placeholder, "placeholder") {
		t.Fatalf("the guest has %q", placeholder)
	}
	const curl = `curl -sS -i -m 30 -H "x-api-key: $SBX_E2E_KEY" https://key.test/`
	if out := l.sh(t, curl+"guest"); !strings.Contains(out, "X-You-Sent: "+placeholder) || strings.Contains(out, value) {
		t.Errorf("the guest reads: %s", out)
	}
	l.sh(t, `docker run -d -i --name keyed -e SBX_E2E_KEY tools /bin/sh -c 'read line' >/dev/null; docker exec keyed /bin/sh -c '`+curl+`container'`)
	l.sh(t, `curl -sS -m 30 -H "authorization: Bearer $SBX_E2E_ENV_KEY" https://key.test/env`)
	for path, want := range map[string]string{"/guest": value, "/container": value, "/env": "Bearer " + l.keys.values[0]} {
		if got := l.keys.at(path); got != want {
			t.Errorf("%s: the server got %q, want %q", path, got, want)
		}
	}
	if out := l.sh(t, `curl -sS -m 30 -w '%{http_code}' -H "x-api-key: of the guest's own" https://key.test/foreign`); !strings.HasSuffix(out, "403") ||
		l.keys.at("/foreign") != "" {
		t.Errorf("a key of the guest's own: %q", out)
	}
	scanGuest(t, l, placeholder)
	scanHost(t, l)
	l.ok(t, "secret", "rm", "SBX_E2E_KEY")
	// A new command has no variable any more; what runs goes on with it.
	for _, command := range []string{"SBX_E2E_KEY=" + placeholder + "; " + curl + "removed", "docker exec keyed /bin/sh -c '" + curl + "removed'"} {
		if out := l.sh(t, command); !strings.Contains(out, "403") || !strings.Contains(out, "sbx secret set SBX_E2E_KEY") {
			t.Errorf("after rm: %q", out)
		}
	}
	if got := l.keys.at("/removed"); got != "" {
		t.Errorf("after rm the server got %q", got)
	}
}

// scan looks for what is told on stdin, hidden so that telling is not finding: in the environment, the
// arguments and the memory of every process but itself, and in every file that is
// younger than the machine.
const scan = `
import os, re, stat, sys

def needles():
    for line in sys.stdin:
        name, text = line.split()
        yield name, bytes(b ^ 0x55 for b in bytes.fromhex(text))
wanted = list(needles())
counts = {"files": 0, "processes": 0, "bytes": 0}

def look(where, data):
    counts["bytes"] += len(data)
    for name, needle in wanted:
        if needle in data:
            print("FOUND", name, where, flush=True)

def look_at_file(path):
    with open(path, "rb") as f:
        last = b""
        while block := f.read(4 << 20):
            look(path, last + block)
            last = block[-256:]

def look_at_memory(pid):
    with open("/proc/%s/mem" % pid, "rb", 0) as mem:
        for line in open("/proc/%s/maps" % pid):
            m = re.match(r"(\w+)-(\w+) rw", line)
            if not m or "[vv" in line:
                continue
            at, end = int(m[1], 16), int(m[2], 16)
            last = b""
            while at < end:
                mem.seek(at)
                block = mem.read(min(4 << 20, end - at))
                if not block:
                    break
                look("memory of %s %s" % (pid, open("/proc/%s/comm" % pid).read().strip()), last + block)
                last, at = block[-256:], at + len(block)

born = int(re.search(r"btime (\d+)", open("/proc/stat").read())[1]) - 300
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        for part in "environ", "cmdline":
            look("/proc/%s/%s" % (pid, part), open("/proc/%s/%s" % (pid, part), "rb").read())
        if int(pid) != os.getpid() and os.readlink("/proc/%s/exe" % pid):
            look_at_memory(pid)
            counts["processes"] += 1
    except OSError:
        pass
devices = {os.stat(d).st_dev for d in ("/", "/run", "/tmp", "/var", "/home", "/dev/shm")}
for dir, dirs, files in os.walk("/"):
    dirs[:] = [d for d in dirs if os.lstat(os.path.join(dir, d)).st_dev in devices]
    for name in files:
        path = os.path.join(dir, name)
        try:
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode) and info.st_ctime >= born:
                counts["files"] += 1
                look_at_file(path)
        except OSError:
            pass
print("SCANNED", counts["files"], "files,", counts["processes"], "processes,", counts["bytes"] >> 20, "MiB")
`

// scanGuest finds no value in the guest; it finds the placeholder, or it would find nothing at all.
func scanGuest(t *testing.T, l *lab, placeholder string) {
	t.Helper()
	var in strings.Builder
	hide := func(name, text string) {
		hidden := []byte(text)
		for i := range hidden {
			hidden[i] ^= 0x55
		}
		in.WriteString(name + " " + hex.EncodeToString(hidden) + "\n")
	}
	for _, form := range l.forms() {
		hide("VALUE", form)
	}
	hide("PLACEHOLDER", placeholder)
	l.write(t, "scan.py", scan)
	r := l.runIn(in.String(), "exec", "-u", "root", "--", "python3", "scan.py")
	if r.status != 0 || strings.Contains(r.out, "FOUND VALUE") {
		t.Errorf("in the guest: %d\n%s%s", r.status, r.out, r.err)
	}
	for _, where := range []string{"/environ", "memory of"} {
		if !strings.Contains(r.out, "FOUND PLACEHOLDER /proc/") || !strings.Contains(r.out, where) {
			t.Errorf("the scan did not find what is there in %s:\n%s%s", where, r.out, r.err)
		}
	}
	t.Logf("in the guest, %v: %s", r.took, lastLine(r.out))
}

// forms are the values of this test's secrets, as they might be written down.
func (l *lab) forms() []string {
	var forms []string
	for _, value := range l.keys.values {
		forms = append(forms, value, base64.StdEncoding.EncodeToString([]byte(value)), hex.EncodeToString([]byte(value)))
	}
	return forms
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// scanHost finds no value in any file of sbx' but the store's, nor in what it prints, nor in what other
// users see of its processes, nor with those that the guest might break.
func scanHost(t *testing.T, l *lab) {
	t.Helper()
	files := 0
	look := func(where string, data []byte) {
		for _, form := range l.forms() {
			if bytes.Contains(data, []byte(form)) {
				t.Errorf("a value is in %s", where)
			}
		}
	}
	err := filepath.WalkDir(l.base, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "secret-values.json" {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		look(path, data)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, command := range []string{"logs", "policy log", "policy log --json", "secret ls --json", "config show", "status --json"} {
		r := l.run(strings.Fields(command)...)
		look(command, []byte(r.out+r.err))
	}
	status := l.status(t)
	children := 0
	for pid, name := range processesOf(t, status.Supervisor) {
		parts := []string{"cmdline"}
		if pid != status.Supervisor {
			children, parts = children+1, append(parts, "environ")
		}
		for _, part := range parts {
			data, err := os.ReadFile(filepath.Join("/proc", itoa(pid), part))
			if err != nil {
				t.Error(err)
			}
			look(part+" of "+name, data)
		}
	}
	if files < 5 || children < 2 {
		t.Errorf("only %d files and %d children of the supervisor were looked at", files, children)
	}
	t.Logf("on the host: %d files, %d children of the supervisor", files, children)
}

// processesOf are a process and all below it, by pid.
func processesOf(t *testing.T, root int) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	parents, names := map[int]int{}, map[int]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue // it ended
		}
		name, rest, _ := strings.Cut(string(data), ") ")
		parents[pid], _ = strconv.Atoi(strings.Fields(rest)[1])
		_, names[pid], _ = strings.Cut(name, "(")
	}
	found := map[int]string{root: names[root]}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if _, ok := found[parent]; ok && found[pid] == "" {
				found[pid], grown = names[pid], true
			}
		}
	}
	return found
}
