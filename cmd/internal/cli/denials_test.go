package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

func deny(kind audit.Kind, name string, port uint16, reason string) audit.Entry {
	return audit.Entry{Kind: kind, Verdict: audit.VerdictDeny, Name: name, Port: port, Reason: reason}
}

func TestDescribeDenials(t *testing.T) {
	entries := []audit.Entry{
		deny(audit.DNS, "x.example", 0, netfilter.ReasonNoRule),
		deny(audit.DNS, "x.example", 0, netfilter.ReasonNoRule),
		deny(audit.DNS, "1.0.0.127.in-addr.arpa", 0, netfilter.ReasonNoRule),
		deny(audit.Connect, "git.example", 22, netfilter.ReasonPort),
		deny(audit.DNS, "www.npmjs.org", 0, netfilter.ReasonNoRule),
		deny(audit.DNS, "bad.example", 0, netfilter.ReasonDenied),
		{Kind: audit.Connect, Verdict: audit.VerdictDeny, Addr: "1.1.1.1", Port: 443, Reason: netfilter.ReasonLiteral},
		{Kind: audit.Connect, Verdict: audit.VerdictAllow, Name: "fine.example", Port: 443},
		{Kind: audit.Drop, Verdict: audit.VerdictDeny, Reason: "IPv6 does not leave"},
	}
	want := []string{
		"sbx: blocked: x.example (no rule allows it)",
		"     allow it with: sbx policy allow x.example",
		"sbx: blocked: git.example:22 (no rule allows this port of it)",
		"     allow it with: sbx policy allow git.example:22/tcp",
		"sbx: blocked: www.npmjs.org (no rule allows it)",
		"     allow it with: sbx policy allow www.npmjs.org",
		"     or, in sbx.yaml: network: {presets: [npm]}",
		"sbx: blocked: bad.example (a rule denies it)",
		"sbx: blocked: 1.1.1.1:443 (it is an address: only names can be allowed)",
	}
	if got := describeDenials(entries); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

// TestRemediesHelp: what is proposed lets through what was refused.
func TestRemediesHelp(t *testing.T) {
	want := []string{
		"sbx: blocked: web.example:8443 (no rule allows this port of it)",
		"     allow it with: sbx policy allow web.example:8443",
		"sbx: blocked: db.example:5432 (no rule allows it)",
		"     allow it with: sbx policy allow db.example:5432/tcp",
		"sbx: blocked: asked.example:443 (nobody answered in time)",
		"     allow it with: sbx policy allow asked.example",
	}
	got := describeDenials([]audit.Entry{
		deny(audit.Connect, "web.example", 8443, netfilter.ReasonPort),
		deny(audit.Connect, "db.example", 5432, netfilter.ReasonNoRule),
		deny(audit.Ask, "asked.example", 443, netfilter.ReasonNoAnswer),
	})
	if !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

func TestDescribeManyDenials(t *testing.T) {
	var entries []audit.Entry
	for _, c := range "abcdefghij" {
		entries = append(entries, deny(audit.DNS, string(c)+".example", 0, netfilter.ReasonNoRule))
	}
	lines := describeDenials(entries)
	blocked := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.Contains(l, "blocked") })
	if len(blocked) != maxDenials || !strings.Contains(lines[len(lines)-1], "and 5 more") {
		t.Errorf("%d lines, the last %q", len(blocked), lines[len(lines)-1])
	}
}

func TestPortsThatMeanBytes(t *testing.T) {
	for pattern, want := range map[string]string{
		"github.com:22": "github.com:22/tcp", "db.test:443,5432,22/tcp": "db.test:443,5432/tcp,22/tcp",
		"api.test": "", "api.test:443": "", "api.test:8443,8080": "", "github.com:22/tcp": "", "api.test:8000-8100": "",
	} {
		got := bytesMeant(netfilter.Rule{Action: netfilter.Allow, Pattern: pattern})
		if want == "" && got != "" || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q", pattern, got)
		}
	}
	if got := bytesMeant(netfilter.Rule{Action: netfilter.Deny, Pattern: "github.com:22"}); got != "" {
		t.Errorf("a deny rule: %q", got)
	}
}
