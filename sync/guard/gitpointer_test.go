package guard

import (
	"errors"
	"strings"
	"testing"
)

func TestPointerAt(t *testing.T) {
	for path, want := range map[string]Pointer{
		".git": gitFile, "sub/.git": gitFile, "sub/.GIT": gitFile, "node_modules/x/.git": gitFile, ".git/x/.git": gitFile,
		".git/worktrees/a/gitdir": backLink, "sub/.git/worktrees/a/gitdir": backLink, ".GIT/Worktrees/a/GitDir": backLink,
		".git/worktrees/a/commondir": commonDir, "x/y/.git/worktrees/a/commondir": commonDir,
		"": NoPointer, "git": NoPointer, ".git/config": NoPointer, ".git/worktrees/a/HEAD": NoPointer, ".git/worktrees/gitdir": NoPointer,
		".git/worktrees/a/b/gitdir": NoPointer, ".git/modules/a/gitdir": NoPointer, ".git/commondir": NoPointer,
	} {
		var parts []string
		if path != "" {
			parts = strings.Split(path, "/")
		}
		if got := PointerAt(parts); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func TestPointerCheck(t *testing.T) {
	for _, test := range []struct {
		kind    Pointer
		content string
		ok      bool
	}{
		{gitFile, "gitdir: /home/u/shop/.git/worktrees/tree\n", true},
		{gitFile, "gitdir: ../../shop/.git/worktrees/tree\n", true},
		{gitFile, "gitdir: .git/worktrees/tree", true},
		{gitFile, "gitdir: /a/.git/worktrees/tree/../../../evil\n", false},
		{gitFile, "gitdir: ../a/../evil/.git/worktrees/x\n", false},
		{gitFile, "gitdir: /a/./.git/worktrees/x\n", false},
		{gitFile, "gitdir: /a//.git/worktrees/x\n", false},
		{gitFile, "gitdir: /../.git/worktrees/x\n", true}, // above the root is the root
		{gitFile, "gitdir: evil\n", false},
		{gitFile, "gitdir: /a/.git\n", false},
		{gitFile, "gitdir: /a/.git/worktrees\n", false},
		{gitFile, "gitdir: /a/.git/worktrees/\n", false},
		{gitFile, "gitdir: /a/.git/worktrees/..\n", false},
		{gitFile, "gitdir: /a/.git/worktrees/x/y\n", false},
		{gitFile, "gitdir: /a/evil\ngitdir: /a/.git/worktrees/x\n", false},
		{gitFile, "gitdir: /a/evil\x00/.git/worktrees/x\n", false},
		{gitFile, "gitdir: /a/evil\r/.git/worktrees/x\n", false},
		{gitFile, "gitdir: /a/.git/worktrees/x\n\n", false},
		{gitFile, "/a/.git/worktrees/x\n", false},
		{gitFile, "", false},
		{gitFile, "gitdir: /" + strings.Repeat("a", MaxPointer) + "/.git/worktrees/x", false},
		{commonDir, "../..\n", true},
		{commonDir, "../..", true},
		{commonDir, "../../\n", false},
		{commonDir, "../../evil\n", false},
		{commonDir, "/evil\n", false},
		{backLink, "/home/u/tree/.git\n", true},
		{backLink, "../../../tree/.git\n", true},
		{backLink, "/home/u/tree\n", false},
		{backLink, "/home/u/x\n/.git\n", false},
		{NoPointer, "", false},
	} {
		err := test.kind.Check([]byte(test.content))
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("kind %d, %q: %v, want agreement %t", test.kind, test.content, err, test.ok)
		}
	}
}
