package guard

import (
	"slices"
	"strings"
	"testing"
)

func TestLed(t *testing.T) {
	const dir = "/home/u/shop"
	for config, want := range map[string][]string{
		"[core]\n\thooksPath = .githooks2": {"/.githooks2"}, "[CORE]\nHOOKSPATH=a/b # ours": {"/a/b"}, "[core] hooksPath = \"with space\" ; x": {"/with space"},
		"[core]\nhooksPath = /home/u/shop/x/../y": {"/y"}, "[core]\nhooksPath = /home/u/hooks": nil, "[core]\nhooksPath = ~/hooks": nil,
		"[core]\nhooksPath = .": nil, "[core]\nhooksPath": nil, "[core]\nhooksPath = ../up": nil,
		"[include]\n\tpath = ../team.gitconfig": {"/team.gitconfig"}, "[includeIf \"gitdir:x\"]\npath = own": {"/.git/own"},
		"[include]\npath = ../../up": nil, "[other]\nhooksPath = x\npath = y": nil, "[core]\nhooksPath = a[b]*": {`/a\[b]\*`},
	} {
		if got := Led(dir, ".git", []byte(config)); !slices.Equal(got, want) {
			t.Errorf("%q leads to %q, want %q", config, got, want)
		}
	}
}

func TestRepositoryElsewhere(t *testing.T) {
	m, err := New(Repository(".bare"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		".bare/hooks/x": true, ".bare/config": true, ".Bare/worktrees/w/commondir": true, ".bare/worktrees/w/gitdir": true, ".bare/modules/a/hooks": true,
		".bare/worktrees/w/config.worktree": true, ".bare/HEAD": false, ".bare/objects/ab": false, "sub/.bare/config": false,
	} {
		if got := m.Protected(strings.Split(path, "/")); got != want {
			t.Errorf("%s: protected %v, want %v", path, got, want)
		}
	}
}
