package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/machine/control"
)

// registryOf is the host of the guest's npm registry, which this machine reaches if it has got here.
func registryOf(t *testing.T, w *world) string {
	t.Helper()
	registry, err := url.Parse(strings.TrimSpace(w.ok(t, "exec", "--", "npm", "config", "get", "registry")))
	if err != nil || registry.Hostname() == "" {
		t.Fatalf("the guest's registry: %v %v", registry, err)
	}
	return registry.Hostname()
}

// testAsk: what no rule covers waits for an answer, given in another terminal, and fails without.
func testAsk(t *testing.T, l *lab) {
	name := registryOf(t, l.world)
	const fetch = "curl -sS -m 60 -o /dev/null -w '%%{http_code}' https://%s/is-number"
	held := make(chan result)
	go func() { held <- l.run("exec", "--", "sh", "-c", fmt.Sprintf(fetch, name)) }()
	question := l.question(t)
	if question.Name != name || question.Port != 443 {
		t.Errorf("the question is %+v", question)
	}
	l.ok(t, "policy", "approve", strconv.FormatUint(question.ID, 10))
	if r := <-held; r.out != "200" {
		t.Errorf("approved: %q %s", r.out, r.err)
	}
	go func() { held <- l.run("exec", "--", "sh", "-c", fmt.Sprintf(fetch, "never.example.com")) }()
	if question = l.question(t); question.Name != "never.example.com" {
		t.Errorf("the question is %+v", question)
	}
	const limit = 8 * time.Second // ask of interceptRules
	r := <-held
	if r.status == 0 || r.took < limit || r.took > limit+20*time.Second {
		t.Errorf("unanswered: %d after %v: %q %s", r.status, r.took, r.out, r.err)
	}
	if !strings.Contains(r.err, "nobody answered in time") {
		t.Errorf("the user is not told why: %q", r.err)
	}
	t.Logf("unanswered: refused after %v", r.took)
}

// question waits for the one that is pending.
func (l *lab) question(t *testing.T) (q control.Question) {
	t.Helper()
	within(t, 30*time.Second, "a question", func() bool {
		var list []control.Question
		if err := json.Unmarshal([]byte(l.ok(t, "policy", "pending", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			q = list[0]
		}
		return len(list) == 1
	})
	return q
}

// testRegistry: the package managers and the registries that this machine has, their requests read.
func testRegistry(t *testing.T, l *lab) {
	mirrors := strings.Fields(l.sh(t, `grep -rhoE '(https?)://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed 's,.*//,,' | sort -u`))
	if len(mirrors) == 0 {
		t.Fatal("the guest has no mirror")
	}
	npm := registryOf(t, l.world)
	var rules strings.Builder
	for _, name := range append(mirrors, npm) {
		fmt.Fprintf(&rules, "    - {host: %q, methods: [GET, HEAD]}\n", name)
	}
	l.write(t, "sbx.yaml", strings.Replace(interceptRules, "secrets:\n", rules.String()+"secrets:\n", 1))
	l.ok(t, "trust")
	l.ok(t, "restart")
	for script, want := range map[string]string{
		"mkdir -p /tmp/n && cd /tmp/n && npm install is-number >&2 && node -p 'require(\"is-number\")(42)'":   "true\n",
		"sudo apt-get update -q >&2 && sudo apt-get install -q -y --no-install-recommends hello >&2 && hello": "Hello, world!\n",
		"curl -sS -m 30 -X PUT -d x -o /dev/null -w '%{http_code}' https://" + npm + "/sbx-e2e":               "403",
	} {
		if got := l.sh(t, script); got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
	log := l.ok(t, "policy", "log", "--json")
	read := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, npm) && strings.Contains(line, `"method":"GET"`) && strings.Contains(line, `"https"`) {
			read++
		}
	}
	if read == 0 {
		t.Errorf("no request to the registry was read:\n%s", tail(log))
	}
}

// testBulk: a GiB down and up through TLS that is passed on, and less through TLS that is read.
func testBulk(t *testing.T, l *lab) {
	for _, test := range []struct {
		name string
		size int64
	}{{"plain.test", 1 << 30}, {"api.test", 64 << 20}} {
		down := fmt.Sprintf("curl -sS -m 500 -o /dev/null -w '%%{size_download} %%{speed_download}' 'https://%s/bytes?n=%d'", test.name, test.size)
		up := fmt.Sprintf("head -c %d /dev/zero | curl -sS -m 500 -T - -w '%%{speed_upload}' https://%s/", test.size, test.name)
		var n int64
		var speed, upSpeed float64
		if _, err := fmt.Sscan(l.sh(t, down), &n, &speed); err != nil || n != test.size {
			t.Errorf("%s: %d bytes came: %v", test.name, n, err)
		}
		var fault string
		if _, err := fmt.Sscan(l.sh(t, up), &n, &fault, &upSpeed); err != nil || n != test.size || fault != "<nil>" {
			t.Errorf("%s: %d bytes arrived: %s %v", test.name, n, fault, err)
		}
		t.Logf("%s, %d MiB: down %.0f MB/s, up %.0f MB/s", test.name, test.size>>20, speed/1e6, upSpeed/1e6)
	}
}
