package configs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestCodexHasItsKey: the program takes a key from `codex login` alone, which is done once, and never over
// another login.
func TestCodexHasItsKey(t *testing.T) {
	agent, err := FindAgent("codex")
	if err != nil {
		t.Fatal(err)
	}
	const fake = `#!/bin/sh
case $1 in
login) mkdir -p $HOME/.codex && cat > $HOME/.codex/auth.json && echo "not for the user" ;;
*) echo "$# $2 $3" && cat $HOME/.codex/auth.json ;;
esac
`
	bin, home := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "codex"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ key, want string }{{"placeholder", "3 exec say hi\nplaceholder\n"}, {"another", "3 exec say hi\nplaceholder\n"}} {
		cmd := exec.Command(agent.Command[0], append(agent.Command[1:], "exec", "say hi")...)
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin", "HOME=" + home, "OPENAI_API_KEY=" + test.key}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != test.want {
			t.Errorf("%q %v, want %q", out, err, test.want)
		}
	}
}
