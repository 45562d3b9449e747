package trust

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const spec = `{"ociVersion":"1.2.0",
"process":{"user":{"uid":0},"args":["sh"],"env":["PATH=/bin","SSL_CERT_FILE=/own"],"rlimits":[{"hard":18446744073709551615}]},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],"unknown":{"kept":true}}`

func read(t *testing.T, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// Every way in which containerd and BuildKit call runc.
func TestAContainerGetsTheAuthorities(t *testing.T) {
	for _, words := range []string{
		"--root /run/r --log /l --log-format json --systemd-cgroup create --bundle DIR --pid-file p id",
		"--log l --log-format json run --bundle=DIR --keep id",
		"create -b DIR id",
		"create id",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := amend(strings.Fields(strings.ReplaceAll(words, "DIR", dir)), func() (string, error) { return dir, nil }); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		doc := read(t, path)
		env := doc["process"].(map[string]any)["env"].([]any)
		for _, want := range []string{"PATH=/bin", "SSL_CERT_FILE=/own", "NODE_EXTRA_CA_CERTS=/dev/sbx-ca.crt", "GIT_SSL_CAINFO=/dev/sbx-ca.crt"} {
			if !slices.Contains(env, any(want)) {
				t.Errorf("%s: no %q in %q", words, want, env)
			}
		}
		if slices.Contains(env, any("SSL_CERT_FILE=/dev/sbx-ca.crt")) {
			t.Errorf("%s: the container's own variable was replaced", words)
		}
		mounts := doc["mounts"].([]any)
		if last := mounts[len(mounts)-1].(map[string]any); len(mounts) != 2 || last["source"] != Bundle || last["destination"] != "/dev/sbx-ca.crt" {
			t.Errorf("%s: mounts are %v", words, mounts)
		}
		if data, _ := os.ReadFile(path); !strings.Contains(string(data), "18446744073709551615") || !strings.Contains(string(data), `"kept":true`) {
			t.Errorf("%s: the rest of the document changed: %s", words, data)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", words, info.Mode())
		}
	}
}

func TestDockerExecGetsTheVariables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(path, []byte(`{"args":["curl"],"env":["A=b"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := amend([]string{"--root", "/r", "exec", "--process", path, "--detach", "id"}, os.Getwd); err != nil {
		t.Fatal(err)
	}
	if env := read(t, path)["env"].([]any); !slices.Contains(env, any("CURL_CA_BUNDLE=/dev/sbx-ca.crt")) {
		t.Errorf("env is %q", env)
	}
}

// What is not runc's to read stays untouched, and a broken document is left for runc to refuse.
func TestOtherCallsChangeNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	for _, words := range []string{"delete id", "--version", "kill id 9", "--root create state id", "create --bundle " + dir + " id"} {
		if err := os.WriteFile(path, []byte(`{"process":`), 0o600); err != nil {
			t.Fatal(err)
		}
		err := amend(strings.Fields(words), func() (string, error) { return dir, nil })
		if strings.HasPrefix(words, "create") != (err != nil) {
			t.Errorf("%s: %v", words, err)
		}
		if data, _ := os.ReadFile(path); string(data) != `{"process":` {
			t.Errorf("%s: wrote %q", words, data)
		}
	}
}

func TestInstallAppendsOnce(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc/ssl/certs", "usr/lib/ssl"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, Bundle), []byte("OLD\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Install(root, "NEW\n"); err != nil {
			t.Fatal(err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(root, Bundle)); string(data) != "OLD\n\nNEW\n" {
		t.Errorf("bundle is %q", data)
	}
	if data, _ := os.ReadFile(filepath.Join(root, Extra)); string(data) != "NEW\n" {
		t.Errorf("the extra file is %q", data)
	}
	if target, err := os.Readlink(filepath.Join(root, opensslFile)); err != nil || target != Bundle {
		t.Errorf("OpenSSL's file: %q %v", target, err)
	}
}
