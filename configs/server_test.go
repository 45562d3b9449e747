package configs

import (
	"slices"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine"
)

// TestServerIsTheUsersWord: no project takes the guard away, and what virtiofsd cannot keep to is refused.
func TestServerIsTheUsersWord(t *testing.T) {
	const chosen = "workspace: {server: virtiofsd}\n"
	for name, c := range map[string]struct{ project, user, want string }{
		"project":    {chosen, "", `unknown key "workspace.server"`},
		"other":      {"", "workspace: {server: nfs}\n", `workspace.server "nfs": must be sbx or virtiofsd`},
		"other key":  {"", "workspace: {protect: [x]}\n", `unknown key "workspace.protect"`},
		"protect":    {"workspace: {protect: [deploy]}\n", chosen, "config.yaml:1:21, protects nothing"},
		"mask":       {"workspace: {mask: [deploy]}\n", chosen, "masks nothing"},
		"more mount": {"workspace: {mounts: [{source: ., target: /x}]}\n", chosen, "serves the project alone"},
	} {
		w := newWorld(t, c.project)
		w.opts.Host.OS = "linux"
		w.user(c.user)
		if got := w.problems().Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	w := newWorld(t, "workspace: {mode: mount}\n")
	w.opts.Host.OS = "darwin"
	w.user(chosen)
	if got := w.problems().Error(); !strings.Contains(got, "is for Linux") {
		t.Errorf("darwin: %q", got)
	}
}

func TestServer(t *testing.T) {
	for project, c := range map[string]struct{ user, want string }{
		"name: a\n":                   {"workspace: {server: virtiofsd}\n", machine.ServerVirtiofsd},
		"name: b\n":                   {"workspace: {server: sbx}\n", ""},
		"name: c\n":                   {"", ""},
		"workspace: {mode: review}\n": {"workspace: {server: virtiofsd}\n", ""},
	} {
		w := newWorld(t, project)
		w.opts.Host.OS = "linux"
		w.user(c.user)
		got := w.load()
		warned := slices.ContainsFunc(got.Warnings, func(s string) bool { return strings.Contains(s, "no undo") })
		if server := got.Spec().Workspace.Server; server != c.want || warned != (c.want != "") {
			t.Errorf("%s: server %q, warnings %q", project, server, got.Warnings)
		}
	}
}
