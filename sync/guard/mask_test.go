package guard

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMasked(t *testing.T) {
	m, err := NewMask([]string{"/config/secrets.yml", "!.env.test", "certs/**"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		".env": true, ".ENV": true, "a/b/.env.local": true, ".env.example": false, ".env.production.example": false, ".env.test": false,
		".envrc": false, "src/env": false, ".env/x": true, "id_ed25519": true, "id_ed25519.pub": false, ".aws/credentials": true,
		"config/secrets.yml": true, "sub/config/secrets.yml": false, "config/secrets.yml.bak": false, "certs/a/key.pem": true,
		".env-prod": true, ".env_local": true, ".env~": true, "ENV~1": true, "deploy_rsa": true, "deploy_rsa.pub": false,
		"config/master.key": true, "testdata/server.key": false, "tls/ca.pem": false,
		".ssh/github": true, ".config/gh/hosts.yml": true, ".config/x": false, "monkey": false, "public.keys": false,
		"node_modules/x/.env": false, "node_modules/x/certs/k": true, ".\u200cenv": true, ".env:stream": true, ".docker/config.json": true,
	} {
		parts := strings.Split(path, "/")
		if got := m.Masked(parts); got != want {
			t.Errorf("%q: masked %v, want %v", path, got, want)
		}
		if m.Masked(parts) && !m.Ends(parts[len(parts)-1]) && !m.Masked(parts[:len(parts)-1]) {
			t.Errorf("%q is masked by its own name, which Ends does not know", path)
		}
	}
	if rests := m.Leads([]string{"config"}); len(rests) == 0 {
		t.Error("config does not lead to config/secrets.yml")
	}
}

func TestRenderKeepsNamesOnly(t *testing.T) {
	const env = "# comment with s3cret\nA=s3cret\nexport B_2 = \"s3cret\ns3cret LINE=2\n\"\nlower=s3cret\r\nC=\n=s3cret\nWITH SPACE=s3cret\nD"
	if got, want := string(Render(".env.local", []byte(env))), "A=masked-by-sbx\nexport B_2=masked-by-sbx\nC=masked-by-sbx\n"; got != want {
		t.Errorf("rendered %q, want %q", got, want)
	}
	const lines = "KEY=\"first\nGEZDGNBVGY3TQOJQ====\nQUJD=\n\"\nB='x'\nC=`\nGEZD=\n`\nD=1\n"
	if got, want := string(Render(".env", []byte(lines))), "KEY=masked-by-sbx\nB=masked-by-sbx\nC=masked-by-sbx\nD=masked-by-sbx\n"; got != want {
		t.Errorf("rendered %q, want %q", got, want)
	}
	for name, content := range map[string]string{"id_rsa": env, ".env": strings.Repeat("A=b\n", MaxRender)} {
		if got := Render(name, []byte(content)); len(got) != 0 {
			t.Errorf("%s: rendered %q", name, got)
		}
	}
}

// Whatever a file holds, no value of it is in what a guest sees.
func TestRenderHoldsNoValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[a-z0-9+/!]{8,40}`).Draw(t, "value")
		before := rapid.SampledFrom([]string{"", "A=", "A='", "A=\"\n", "A=x\n", "export A = ", "A=B=", "\n", "A:", "A\n="}).Draw(t, "before")
		after := rapid.SampledFrom([]string{"", "\n", "'\n", "\"\n", "=\n", "=x", "\nB=1\n", "\r\n", "\r"}).Draw(t, "after")
		if got := Render(".env", []byte(before+value+after)); bytes.Contains(got, []byte(value)) {
			t.Fatalf("%q shows %q", got, value)
		}
	})
}
