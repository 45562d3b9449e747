package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testNpmInstall: a tree of packages with its links, installed, used, removed and installed again from the lock.
// It comes after testPresets, whose rules let it.
func testNpmInstall(t *testing.T, w *world) {
	if err := os.Mkdir(filepath.Join(w.project, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "web/package.json", `{"name": "web", "private": true, "dependencies": {"express": "^4", "typescript": "^5"}}`)
	w.write(t, "web/hello.ts", "const words: string[] = ['hello', 'from', 'types']\nconsole.log(words.join(' '))\n")
	w.write(t, "web/serve.js", `const app = require("express")()
app.get("/", (_, res) => res.send("served"))
const server = app.listen(0, "127.0.0.1", async () => {
	console.log(await (await fetch("http://127.0.0.1:" + server.address().port)).text())
	server.close()
})`)
	const use = ` >&2 && node serve.js && node_modules/.bin/tsc hello.ts && node hello.js && npm ls --all >/dev/null`
	for _, script := range []string{
		"npm install --no-audit --no-fund --loglevel error" + use,
		"rm -rf node_modules && test ! -e node_modules && npm ci --no-audit --no-fund --loglevel error" + use,
	} {
		r := w.run("exec", "--", "sh", "-c", "cd web && "+script)
		if r.status != 0 || r.out != "served\nhello from types\n" {
			t.Errorf("%.20s: status %d after %v: %q\n%s", script, r.status, r.took, r.out, tail(r.err))
		}
		t.Logf("%.20s: %v", script, r.took)
	}
	link, err := os.Readlink(filepath.Join(w.project, "web/node_modules/.bin/tsc"))
	if err != nil || link != "../typescript/bin/tsc" {
		t.Errorf("on the host .bin/tsc leads to %q, %v", link, err)
	}
}

// testGoBuild: the host's Go, shared read-only, compiles a module on the workspace, its cache there too.
func testGoBuild(t *testing.T, w *world) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "sbx.yaml", fmt.Sprintf("version: 1\nnetwork: {presets: [debian, npm]}\nworkspace:\n  mounts: [{source: %q, target: /opt/go, readonly: true}]\n",
		strings.TrimSpace(string(goroot))))
	w.ok(t, "trust")
	w.ok(t, "restart")
	for name, content := range map[string]string{
		"module/go.mod":  "module example.com/module\n\ngo 1.24\n",
		"module/main.go": "package main\n\nimport \"example.com/module/words\"\n\nfunc main() { println(words.All()) }\n",
		"module/words/words.go": "// Package words has some.\npackage words\n\nimport \"strings\"\n\n" +
			"// All gives them.\nfunc All() string { return strings.Join([]string{\"built\", \"here\"}, \" \") }\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(w.project, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		w.write(t, name, content)
	}
	r := w.run("exec", "--", "sh", "-c", `cd module && export GOCACHE=$PWD/.cache GOFLAGS="-mod=mod -buildvcs=false" GOTOOLCHAIN=local PATH=/opt/go/bin:$PATH
		go build -o out . && ./out 2>&1 && test -z "$(go build -o out -v . 2>&1)" && ! touch /opt/go/x 2>/dev/null`)
	if r.status != 0 || r.out != "built here\n" {
		t.Errorf("status %d after %v: %q\n%s", r.status, r.took, r.out, tail(r.err))
	}
	t.Logf("built in %v", r.took)
	if !strings.HasPrefix(w.read(t, "module/out"), "\x7fELF") {
		t.Error("on the host it is no program")
	}
}
