package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const helloSource = `package main

import "fmt"

func main() { fmt.Println("hello from scratch") }
`

// testDocker: the guest's own dockerd, from an image made of nothing and one made
// of the guest's own shell.
func testDocker(t *testing.T, w *world) {
	w.write(t, "hello.go", helloSource)
	build := exec.Command("go", "build", "-o", "hello", "hello.go")
	build.Dir = w.project
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v %s", err, out)
	}
	w.write(t, "Dockerfile", "FROM scratch\nCOPY hello /hello\nENTRYPOINT [\"/hello\"]\n")
	w.write(t, ".dockerignore", "*\n!hello\n")
	w.ok(t, "exec", "--", "docker", "build", "-q", "-t", "hello", ".")
	if got := w.ok(t, "exec", "--", "docker", "run", "--rm", "hello"); got != "hello from scratch\n" {
		t.Errorf("docker run: %q", got)
	}
	w.sh(t, `set -e; mkdir -p /tmp/r/bin && cp /bin/dash /tmp/r/bin/sh
		ldd /bin/dash | grep -o '/[^ ]*' | while read -r f; do mkdir -p /tmp/r/$(dirname $f) && cp $f /tmp/r/$f; done
		tar -C /tmp/r -c . | docker import - shell >/dev/null`)
	if got := w.ok(t, "exec", "--", "docker", "run", "--rm", "shell", "/bin/sh", "-c", "echo $((6*7))"); got != "42\n" {
		t.Errorf("the imported shell: %q", got)
	}
	testDockerNetwork(t, w)
	name := strings.TrimSpace(w.ok(t, "exec", "--", "docker", "info", "-f", "{{.Name}} {{.Driver}}"))
	if want := strings.TrimSpace(w.ok(t, "exec", "--", "hostname")) + " overlay2"; name != want {
		t.Errorf("docker info names %q, want %q", name, want)
	}
}

// testDockerNetwork: a network of containers, names on it, a port published in the
// guest; a container has no way out that the guest has not.
func testDockerNetwork(t *testing.T, w *world) {
	w.write(t, "serve.py", "import http.server\nhttp.server.test(HandlerClass=http.server.SimpleHTTPRequestHandler, port=8000)\n")
	w.sh(t, `set -e; docker network create inner >/dev/null
		docker run -d --name web --network inner -p 127.0.0.1:8123:8000 -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro -v /etc/mime.types:/etc/mime.types:ro \
			-v "$PWD:/srv:ro" -w /srv shell /usr/bin/python3 serve.py >/dev/null`)
	defer w.run("exec", "--", "docker", "rm", "-f", "web")
	const fetch = "for i in $(seq 10); do curl -sS -m 5 http://127.0.0.1:8123/made-in-guest && exit; sleep 1; done; docker logs web"
	if r := w.run("exec", "--", "sh", "-c", fetch); r.out != "x\n" {
		t.Errorf("published port: %q %q", r.out, r.err)
	}
	const inside = `docker run --rm --network inner -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro shell /usr/bin/python3 -c '
import socket
print(len(socket.gethostbyname("web")) > 0)
for target in ("1.1.1.1", 443), ("169.254.169.254", 80):
    try:
        s = socket.create_connection(target, 5); s.sendall(b"x"); print("REACHED", target)
    except OSError: pass
'`
	if got := w.sh(t, inside); got != "True\n" {
		t.Errorf("in a container: %q", got)
	}
}

// testDockerKept: images survive stop and up.
func testDockerKept(t *testing.T, w *world) {
	w.ok(t, "stop")
	if r := w.run("exec", "--", "true"); r.status != 125 || !strings.Contains(r.err, "sbx up") {
		t.Errorf("exec in a stopped sandbox: %d %q", r.status, r.err)
	}
	w.ok(t, "stop")
	w.ok(t, "up")
	if got := w.ok(t, "exec", "--", "docker", "run", "--rm", "hello"); got != "hello from scratch\n" {
		t.Errorf("docker run after stop and up: %q", got)
	}
	if matches, err := filepath.Glob(filepath.Join(w.project, ".sbx*")); err != nil || len(matches) > 0 {
		t.Errorf("left in the project: %q %v", matches, err)
	}
}
