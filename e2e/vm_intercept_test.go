package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// interceptRules are the project's: requests to these names are read, but to plain.test's.
const interceptRules = `version: 1
network:
  ask: 8s
  allow:
    - {host: api.test, methods: [GET, PUT]}
    - {host: git.test, methods: [GET, HEAD, OPTIONS], paths: ["/**"]}
    - {host: git.test, methods: [POST], paths: ["/**/git-upload-pack"]}
    - {host: apt.test, methods: [GET, HEAD]}
    - {host: npm.test, methods: [GET, HEAD]}
    - {host: images.test, methods: [GET, HEAD]}
    - {host: ws.test, methods: [GET], paths: ["/**"]}
    - {host: ws.test, methods: [WEBSOCKET], paths: ["/open"]}
secrets:
  - {name: SBX_E2E_KEY, hosts: [key.test], header: x-api-key}
  - {name: SBX_E2E_ENV_KEY, hosts: [key.test], header: authorization}
`

// lab is a world with the stand-ins that the parts of TestVMIntercept ask for something.
type lab struct {
	*world
	git, npm, apt journal
	keys          *keyServer
}

// TestVMIntercept is what a guest's programs do through the gateway, to servers of the test's.
func TestVMIntercept(t *testing.T) {
	l := &lab{world: newWorld(t, "shop"), keys: &keyServer{}}
	a := l.standIns(t)
	repo := repository(t)
	sshAddr, known := serveSSH(t, "ssh.test", repo)
	l.write(t, "known_hosts", known)
	api := a.serve(t, http.HandlerFunc(bulk), "api.test", "plain.test")
	ws := websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}
	l.userConfig(t, []string{
		"api.test:443 " + api, "plain.test:443 " + api, "ssh.test:22/tcp " + sshAddr,
		"git.test:443 " + a.serve(t, l.git.of(smartHTTP(t, repo)), "git.test"),
		"apt.test:443 " + a.serve(t, l.apt.of(aptRepository(filepath.Join(l.project, "apt"))), "apt.test"),
		"npm.test:443 " + a.serve(t, l.npm.of(npmRegistry(t)), "npm.test"),
		"images.test:443 " + a.serve(t, imageRegistry(t), "images.test"),
		"ws.test:443 " + a.serve(t, ws, "ws.test"),
		"key.test:443 " + a.serve(t, l.keys, "key.test"),
	}, "")
	l.write(t, "sbx.yaml", interceptRules)
	l.env = append(l.env, "SBX_E2E_ENV_KEY="+l.keys.make("sk-env-"))
	l.ok(t, "trust")
	l.ok(t, "up")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *lab)
	}{
		{"curl", testCurl},
		{"git", testGit},
		{"ssh", testGitSSH},
		{"websocket", testWebSocket},
		{"apt", testApt},
		{"npm", testNpm},
		{"docker", testDockerIntercepted},
		{"secret", testSecret},
		{"ask", testAsk},
		{"registry", testRegistry},
		{"bulk", testBulk},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, l) })
	}
}

// testCurl: the guest believes both certificates, and sees whose they are.
func testCurl(t *testing.T, l *lab) {
	const script = `curl -sSv -m 30 https://%s/ 2>&1`
	for name, want := range map[string]bool{"api.test": false, "plain.test": true} {
		out := l.sh(t, fmt.Sprintf(script, name))
		if !strings.Contains(out, "\nhere\n") || strings.Contains(out, "CN="+authorityName) != want {
			t.Errorf("%s: %s", name, tail(out))
		}
	}
	if got := l.sh(t, "curl -sS -m 30 -X POST -w ' %{http_code}' https://api.test/form"); !strings.HasPrefix(got, "sbx: POST /form") ||
		!strings.HasSuffix(got, " 403") {
		t.Errorf("a POST: %q", got)
	}
}

// testGit: what the rules of the preset github-clone say holds for git itself.
func testGit(t *testing.T, l *lab) {
	if got := l.sh(t, "git clone -q https://git.test/r.git /tmp/over-https && cat /tmp/over-https/greeting"); got != "hello from the server\n" {
		t.Errorf("clone: %q", got)
	}
	const push = `cd /tmp/over-https && git config user.name e2e && git config user.email e2e@example.com &&
		echo changed > greeting && git commit -q -a -m two && git push origin HEAD:main`
	r := l.run("exec", "--", "sh", "-c", push)
	if r.status == 0 || !strings.Contains(r.err, "403") {
		t.Errorf("push: %d %s", r.status, r.err)
	}
	if asked := l.git.String(); !strings.Contains(asked, "POST /r.git/git-upload-pack") || strings.Contains(asked, "POST /r.git/git-receive-pack") {
		t.Errorf("the server was asked:\n%s", asked)
	}
}

func testGitSSH(t *testing.T, l *lab) {
	const clone = `GIT_SSH_COMMAND="ssh -o UserKnownHostsFile=$PWD/known_hosts" git clone -q ssh://git@ssh.test/r.git /tmp/over-ssh && cat /tmp/over-ssh/greeting`
	if got := l.sh(t, clone); got != "hello from the server\n" {
		t.Errorf("clone: %q", got)
	}
}

// webSocket prints the answer to an upgrade, and what comes back for a word that is sent.
const webSocket = `
import base64, os, socket, ssl, sys

raw = socket.create_connection(("ws.test", 443), 30)
s = ssl.create_default_context().wrap_socket(raw, server_hostname="ws.test")
s.sendall(("GET %s HTTP/1.1\r\nHost: ws.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: https://ws.test\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (sys.argv[1], base64.b64encode(os.urandom(16)).decode())).encode())
f = s.makefile("rb")
status = f.readline().split()[1].decode()
print(status)
if status == "101":
    while f.readline().strip():
        pass
    word, mask = b"over and out", os.urandom(4)
    s.sendall(bytes([0x81, 0x80 | len(word)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(word)))
    print(f.read(f.read(2)[1]).decode())
`

func testWebSocket(t *testing.T, l *lab) {
	l.write(t, "ws.py", webSocket)
	for path, want := range map[string]string{"/open": "101\nover and out\n", "/other": "403\n"} {
		if got := l.ok(t, "exec", "--", "python3", "ws.py", path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func testApt(t *testing.T, l *lab) {
	if err := os.Mkdir(filepath.Join(l.project, "apt"), 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `set -e
		mkdir -p /tmp/deb/DEBIAN /tmp/deb/usr/bin
		printf 'Package: sbx-hello\nVersion: 1\nArchitecture: all\nMaintainer: e2e <e2e@example.com>\nDescription: says hello\n' > /tmp/deb/DEBIAN/control
		printf '#!/bin/sh\necho hello from the archive\n' > /tmp/deb/usr/bin/sbx-hello && chmod 755 /tmp/deb/usr/bin/sbx-hello
		dpkg-deb --build --root-owner-group /tmp/deb apt/sbx-hello.deb >/dev/null
		echo 'deb [trusted=yes] https://apt.test/ ./' | sudo tee /etc/apt/sources.list.d/stand-in.list >/dev/null
		only='-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/stand-in.list -o Dir::Etc::sourceparts=-'
		sudo apt-get $only update -q >&2
		sudo apt-get $only install -q -y sbx-hello >&2
		sudo rm /etc/apt/sources.list.d/stand-in.list
		sbx-hello`
	if got := l.sh(t, script); got != "hello from the archive\n" {
		t.Errorf("installed: %q; the server was asked:\n%s", got, &l.apt)
	}
}

func testNpm(t *testing.T, l *lab) {
	const script = `set -e; mkdir /tmp/npm && cd /tmp/npm && npm install --registry https://npm.test standin-hello >&2 && node -e 'require("standin-hello")'`
	if got := l.sh(t, script); got != "hello from the registry\n" {
		t.Errorf("installed: %q", got)
	}
	if asked := l.npm.String(); strings.Contains(asked, "POST") {
		t.Errorf("the server was asked:\n%s", asked)
	}
}

// testDockerIntercepted: dockerd, builds and containers believe the sandbox's authority, of images that
// know no authorities at all and without a change to the Dockerfile.
func testDockerIntercepted(t *testing.T, l *lab) {
	l.sh(t, `set -e; mkdir -p /tmp/tools/bin /tmp/tools/usr/bin && cp /bin/dash /tmp/tools/bin/sh && cp /usr/bin/curl /tmp/tools/usr/bin/
		ldd /bin/dash /usr/bin/curl | grep -o '/[^ :]*' | sort -u | while read -r f; do mkdir -p /tmp/tools/$(dirname $f) && cp $f /tmp/tools/$f; done
		tar -C /tmp/tools -c . | docker import - tools >/dev/null`)
	if got := l.sh(t, "docker run --rm tools /bin/sh -c 'echo /etc/ssl/*'"); got != "/etc/ssl/*\n" {
		t.Errorf("the image has authorities of its own: %q", got)
	}
	l.write(t, "Dockerfile", `FROM tools AS tools
FROM images.test/base
COPY --from=tools / /
RUN curl -sS -m 30 https://api.test/ > /got && curl -sS -m 30 https://plain.test/ >> /got
CMD ["/bin/sh", "-c", "while read -r l; do echo $l; done < /greeting; while read -r l; do echo $l; done < /got"]
`)
	l.write(t, ".dockerignore", "*\n")
	l.ok(t, "exec", "--", "docker", "build", "-q", "-t", "got", ".")
	if got := l.ok(t, "exec", "--", "docker", "run", "--rm", "got"); got != "hello from the image\nhere\nhere\n" {
		t.Errorf("in the build: %q", got)
	}
	if got := l.ok(t, "exec", "--", "docker", "run", "--rm", "tools", "/usr/bin/curl", "-sS", "-m", "30", "https://api.test/"); got != "here\n" {
		t.Errorf("in a container: %q", got)
	}
}
