package configs

import (
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine"
)

// TestReserve: the user says what stays free, and a project can only ask for more.
func TestReserve(t *testing.T) {
	const none = machine.NoReserve
	for name, c := range map[string]struct {
		project, user string
		want          machine.Bytes
		source        string
	}{
		"default":          {"", "", 0, ""},
		"user":             {"", "5GiB", 5 * machine.GiB, "user"},
		"user less":        {"", "10MiB", 10 * machine.MiB, "user"},
		"off":              {"", "0", none, "user"},
		"off in quotes":    {"", `"0"`, none, "user"},
		"project":          {"2GiB", "", 2 * machine.GiB, "project"},
		"project less":     {"512MiB", "", 0, ""},
		"both":             {"7GiB", "5GiB", 7 * machine.GiB, "project"},
		"project is lower": {"3GiB", "5GiB", 5 * machine.GiB, "user"},
		"more than none":   {"3MiB", "0", 3 * machine.MiB, "project"},
	} {
		w := newWorld(t, reserveOf("name: a\n", c.project))
		w.user(reserveOf("version: 1\n", c.user))
		got := w.load()
		if reserve := got.Spec().Workspace.Reserve; reserve != c.want || value(got, "workspace.reserve").Source != c.source {
			t.Errorf("%s: %d bytes, %+v", name, reserve, value(got, "workspace.reserve"))
		}
		if len(got.Widening()) != 0 {
			t.Errorf("%s: takes consent: %v", name, got.Widening())
		}
	}
}

func reserveOf(begin, size string) string {
	if size == "" {
		return begin
	}
	return begin + "workspace: {reserve: " + size + "}\n"
}

func TestReserveProblems(t *testing.T) {
	for name, c := range map[string]struct{ project, user, want string }{
		"none by a project": {"workspace: {reserve: 0}\n", "", "sbx.yaml:1:22: workspace.reserve 0: a project can only ask for more"},
		"number":            {"", "workspace: {reserve: 1}\n", `must be text: write "1" in quotes`},
		"other unit":        {"", "workspace: {reserve: 4GB}\n", `size "4GB"`},
		"negative":          {"", "workspace: {reserve: -1}\n", "must be text"},
		"zero with a unit":  {"", "workspace: {reserve: 0GiB}\n", `size "0GiB"`},
		"another zero":      {"", "workspace: {reserve: 0x0}\n", "must be text"},
		"zero elsewhere":    {"resources: {disk: 0}\n", "", `must be text: write "0" in quotes`},
		"virtiofsd":         {"workspace: {reserve: 2GiB}\n", "workspace: {server: virtiofsd}\n", "config.yaml:1:21, keeps none"},
		"virtiofsd, user's": {"", "workspace: {server: virtiofsd, reserve: 2GiB}\n", "keeps none"},
	} {
		w := newWorld(t, c.project)
		w.opts.Host.OS = "linux"
		w.user(c.user)
		if got := w.problems().Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
