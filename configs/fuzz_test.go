package configs

import (
	"strings"
	"testing"
	"unicode"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// FuzzConfig reads hostile files: no panic, no fault without words, nothing in
// the report that a terminal obeys, and what loads is valid.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		design, "a: &a [*a]\n", "<<: {}\n", "? a\n: b\n", "network:\n\tallow: []\n", "env: {a: |\n  b\n}\n", "- - - -\n", "{{{{", "\"\\x1b\": 1\n",
		"name: !!binary aGk=\n", "%YAML 1.1\n---\na: 1\n", "network: {allow: [\"*.x.test:1-2/tcp\"]}\n",
		"version: 1\n...\n---\n", "env:\n  a: 'b\n", "ports: [\"1\"]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		rep := newReport()
		var file File
		scalars := decode(rep, "sbx.yaml", src, &file)
		host := Host{CPUs: 4, Memory: 8 * machine.GiB, Arch: "amd64", UID: 1, GID: 1}
		merged, values := overlay(rep, []layer{{"project", scalars}, defaults(host)})
		b := &builder{rep: rep, file: file, merged: merged, c: &Config{Project: "/p", File: "sbx.yaml", values: values, host: host}}
		b.version(scalars)
		b.build()
		if err := rep.err(); err != nil {
			checkReport(t, err)
			return
		}
		s := b.c.Spec()
		if !matches(namePattern, s.Name) || CheckTarget(s.Workspace.Target) != nil || s.Resources.CPUs < 1 || s.Resources.Memory < minMemory {
			t.Fatalf("loaded %+v", s)
		}
		if _, _, err := netfilter.Compile(s.Network); err != nil {
			t.Fatalf("loaded a network that does not compile: %v", err)
		}
	})
}

func checkReport(t *testing.T, err error) {
	text := err.Error()
	if strings.TrimSpace(text) == "" || len(text) > 1<<20 {
		t.Fatalf("a report of %d bytes", len(text))
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && r != unicode.ReplacementChar && !unicode.IsPrint(r) }); i >= 0 {
		t.Fatalf("the report holds %q", text[i:min(len(text), i+20)])
	}
}
