package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// testDenied: without a rule a name fails at once, and the user is told which rule
// to add; nothing is left to find out.
func testDenied(t *testing.T, w *world) {
	for _, test := range []struct{ script, rule string }{
		{"curl -sS -m 20 https://denied.example/", "sbx policy allow denied.example"},
		{"curl -sS -m 20 https://www.npmjs.org/is-number", "sbx policy allow www.npmjs.org"},
		{"curl -sS -m 20 http://ftp.debian.org/debian/", "sbx policy allow ftp.debian.org"},
	} {
		script := "start=$(date +%s%N); " + test.script + "; status=$?; " +
			"echo took $(( ($(date +%s%N) - start) / 1000000 )) ms; exit $status"
		r := w.run("exec", "--", "sh", "-c", script)
		if r.status == 0 || !strings.Contains(r.err, test.rule) {
			t.Errorf("%s: status %d, %q does not say %q", test.script, r.status, r.err, test.rule)
		}
		var ms int
		if _, after, ok := strings.Cut(r.out, "took "); ok {
			ms = atoi(strings.TrimSuffix(strings.TrimSpace(after), " ms"))
		}
		if ms == 0 || ms > 2000 {
			t.Errorf("%s: refused after %d ms", test.script, ms)
		}
	}
	if r := w.run("exec", "--", "npm", "view", "is-number", "version"); r.status == 0 || !strings.Contains(r.err, "npm") {
		t.Errorf("npm without its preset: %d %s", r.status, r.err)
	} else if !strings.Contains(r.err, "preset") {
		t.Errorf("the preset is not named: %q", r.err)
	}
	log := w.ok(t, "policy", "log")
	for _, name := range []string{"denied.example", "www.npmjs.org", "ftp.debian.org"} {
		if !strings.Contains(log, name) {
			t.Errorf("policy log does not show %s:\n%s", name, log)
		}
	}
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// probe is run in the guest: each attempt prints a line if it reached anything.
// bash's /dev/tcp and python3 are in the image.
const probe = `
import socket, struct, sys, time

def attempt(name, f):
    start = time.time()
    try:
        f()
        print("REACHED", name)
    except OSError as e:
        print("refused", name, "after %.1fs" % (time.time() - start), e)

def tcp(addr, port, family=socket.AF_INET):
    def f():
        s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(5)
        s.connect((addr, port))
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if not s.recv(1): raise OSError("closed")
    return f

def udp(addr, port, payload):
    def f():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
        s.sendto(payload, (addr, port)); s.recv(512)
    return f

query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"
def icmp(addr):
    def f():
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(2)
        s.sendto(struct.pack("!BBHHH", 8, 0, 0xf7fe, 1, 0), (addr, 0)); s.recv(512)
    return f

for addr in ("1.1.1.1", "169.254.169.254", "127.1.1.1", "10.0.0.1", "192.168.1.1", "203.0.113.1", "100.64.0.1", "198.18.77.77") + tuple(sys.argv[1:]):
    for port in (22, 80, 443, 53):
        attempt("tcp %s:%d" % (addr, port), tcp(addr, port))
for addr in ("1.1.1.1", "8.8.8.8", "203.0.113.1"):
    attempt("dns %s" % addr, udp(addr, 53, query))
    attempt("udp %s" % addr, udp(addr, 443, b"x" * 1200))
    attempt("icmp %s" % addr, icmp(addr))
attempt("ipv6", tcp("2606:4700:4700::1111", 443, socket.AF_INET6))
attempt("name", tcp("example.com", 443))
`

// testNoWayOut: a literal address, another DNS server, UDP, ICMP and IPv6 reach
// nothing, as root, and neither does any address of the host.
func testNoWayOut(t *testing.T, w *world) {
	w.write(t, "probe.py", probe)
	out := w.ok(t, append([]string{"exec", "-u", "root", "--", "python3", "probe.py"}, hostAddresses(t)...)...)
	for line := range strings.Lines(out) {
		// The guest's own loopback is the guest's.
		if strings.HasPrefix(line, "REACHED") && !strings.Contains(line, "127.1.1.1") {
			t.Errorf("%s", line)
		}
	}
	if !strings.Contains(out, "refused icmp 1.1.1.1") {
		t.Errorf("the probe did not run to its end:\n%s", out)
	}
}

// testPresets: what a preset names works through the gateway, with the package
// managers' own clients and the host's certificates.
func testPresets(t *testing.T, w *world) {
	w.write(t, "sbx.yaml", "version: 1\nnetwork:\n  presets: [debian, npm]\n")
	w.ok(t, "restart")
	for _, test := range []struct{ script, want string }{
		{"sudo apt-get install -q -y --no-install-recommends hello && hello", "Hello, world!"},
		{"sudo apt-get update -q && apt-cache policy hello", "hello"},
		{"npm view is-number version", "."},
	} {
		r := w.run("exec", "--", "sh", "-c", test.script)
		if r.status != 0 || !strings.Contains(r.out, test.want) {
			t.Errorf("%s: status %d after %v\n%s%s", test.script, r.status, r.took, tail(r.out), tail(r.err))
		}
	}
	if r := w.run("exec", "--", "curl", "-sS", "-m", "20", "https://denied.example/"); r.status == 0 {
		t.Error("the presets let more through than they name")
	}
	testPolicyEdits(t, w)
}

// testPolicyEdits: rules change on the running sandbox. The name is that of the
// guest's own registry, which this machine reaches if it has got here.
func testPolicyEdits(t *testing.T, w *world) {
	name := registryOf(t, w)
	fetch := "curl -sS -m 30 -o /dev/null -w '%{http_code}' https://" + name + "/is-number"
	if r := w.run("exec", "--", "sh", "-c", fetch); r.out != "200" {
		t.Fatalf("before: %q %s", r.out, r.err)
	}
	w.ok(t, "policy", "deny", name)
	if r := w.run("exec", "--", "sh", "-c", fetch); r.status == 0 {
		t.Errorf("after deny: %q", r.out)
	}
	if r := w.run("policy", "check", name+":443"); r.status == 0 || !strings.Contains(r.out, "deny") {
		t.Errorf("check: %d %q %s", r.status, r.out, r.err)
	}
	w.ok(t, "policy", "rm", name)
	if r := w.run("exec", "--", "sh", "-c", fetch); r.out != "200" {
		t.Errorf("after rm: %q %s", r.out, r.err)
	}
	if r := w.run("policy", "allow", "not a name"); r.status == 0 {
		t.Error("a broken rule was taken")
	}
	if !json.Valid([]byte(w.ok(t, "policy", "ls", "--json"))) {
		t.Error("policy ls --json is no JSON")
	}
}

func tail(s string) string {
	const most = 2000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// deadline is how long a killed part may look alive.
const deadline = 2 * time.Second
