package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// journal is what a stand-in was asked for, "METHOD /path".
type journal struct {
	mu    sync.Mutex
	lines []string
}

// of notes what h is asked.
func (j *journal) of(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.mu.Lock()
		j.lines = append(j.lines, r.Method+" "+r.URL.Path)
		j.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// git runs git on the host, with no configuration of the user's.
func git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=e2e", "GIT_AUTHOR_EMAIL=e2e@example.com",
		"GIT_COMMITTER_NAME=e2e", "GIT_COMMITTER_EMAIL=e2e@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repository makes a folder with r.git in it, which takes pushes from everybody.
func repository(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	work := filepath.Join(root, "work")
	git(t, "init", "-q", "-b", "main", work)
	if err := os.WriteFile(filepath.Join(work, "greeting"), []byte("hello from the server\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, "-C", work, "add", ".")
	git(t, "-C", work, "commit", "-q", "-m", "one")
	git(t, "clone", "-q", "--bare", work, filepath.Join(root, "r.git"))
	git(t, "-C", filepath.Join(root, "r.git"), "config", "http.receivepack", "true")
	return root
}

// smartHTTP is git's own server.
func smartHTTP(t *testing.T, root string) http.Handler {
	return &cgi.Handler{
		Path: filepath.Join(git(t, "--exec-path"), "git-http-backend"), Stderr: testLog{t},
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	}
}

// serveSSH is a git server over SSH that lets everybody read; it gives its address and its line of known_hosts.
func serveSSH(t *testing.T, name, root string) (addr, known string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveSSHConn(t, conn, config, root) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), name + " " + string(ssh.MarshalAuthorizedKey(key.PublicKey()))
}

func serveSSHConn(t *testing.T, conn net.Conn, config *ssh.ServerConfig, root string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		t.Logf("ssh: %v", err)
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				_ = r.Reply(r.Type == "env", nil)
				continue
			}
			_ = r.Reply(true, nil)
			cmd := exec.Command("git", "upload-pack", filepath.Join(root, "r.git"))
			cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
			var status struct{ Status uint32 }
			if err := cmd.Run(); err != nil {
				t.Logf("ssh: %q: %v", r.Payload, err)
				status.Status = 1
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
			channel.Close()
		}
	}
}

// npmRegistry has one package, standin-hello.
func npmRegistry(t *testing.T) http.Handler {
	t.Helper()
	var tgz bytes.Buffer
	zip := gzip.NewWriter(&tgz)
	tw := tar.NewWriter(zip)
	for name, content := range map[string]string{
		"package/package.json": `{"name": "standin-hello", "version": "1.0.0", "main": "index.js"}`,
		"package/index.js":     `console.log("hello from the registry")`,
	} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(tgz.Bytes())
	const tarball = "/standin-hello/-/standin-hello-1.0.0.tgz"
	doc := fmt.Sprintf(`{"name": "standin-hello", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "standin-hello", "version": "1.0.0",
		"dist": {"tarball": "https://npm.test%s", "integrity": "sha512-%s"}}}}`, tarball, base64.StdEncoding.EncodeToString(sum[:]))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /standin-hello", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, doc)
	})
	mux.HandleFunc("GET "+tarball, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(tgz.Bytes()) })
	return mux
}

// aptRepository serves the packages of a folder as they come to be there.
func aptRepository(dir string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("GET /Packages", func(w http.ResponseWriter, r *http.Request) {
		deb, err := os.ReadFile(filepath.Join(dir, "sbx-hello.deb"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "Package: sbx-hello\nVersion: 1\nArchitecture: all\nMaintainer: e2e <e2e@example.com>\nDescription: says hello\n"+
			"Filename: ./sbx-hello.deb\nSize: %d\nSHA256: %x\n", len(deb), sha256.Sum256(deb))
	})
	return mux
}

// imageRegistry has one image, base, whose only file is /greeting.
func imageRegistry(t *testing.T) http.Handler {
	t.Helper()
	const greeting = "hello from the image\n"
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "greeting", Mode: 0o644, Size: int64(len(greeting))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte(greeting)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	serve := func(media string, content []byte) (descriptor string) {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
		h := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			w.Header().Set("Docker-Content-Digest", digest)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		}
		mux.HandleFunc("GET /v2/base/blobs/"+digest, h)
		mux.HandleFunc("GET /v2/base/manifests/"+digest, h)
		if strings.Contains(media, "manifest") {
			mux.HandleFunc("GET /v2/base/manifests/latest", h)
		}
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, media, digest, len(content))
	}
	const media = "application/vnd.oci.image."
	config := serve(media+"config.v1+json", fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		runtime.GOARCH, sha256.Sum256(layer.Bytes())))
	serve(media+"manifest.v1+json", fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`,
		media+"manifest.v1+json", config, serve(media+"layer.v1.tar", layer.Bytes())))
	return mux
}
