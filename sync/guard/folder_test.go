package guard

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever Ordinary says of a name, nothing else in this package may say otherwise.
func TestOrdinaryIsNothingToAsk(t *testing.T) {
	own := []string{"a/**/b", "/top/x", "*.gen/y", "d[ab]", "e/f/**"}
	m, err := New(own)
	if err != nil {
		t.Fatal(err)
	}
	words := []string{
		"src", "a.go", "node_modules", "Node_Modules", `a\b`, `.git\hooks`, "GIT~1", "git~2", "\uff5e", "vscode~1", ".g\u200cit", ".GIT ",
		"config.lock", "CONFIG.lock", "gitdir", "commondir", "worktrees", "worktr~1", "w", "b", "x.gen", "da", "\uff3c", "x",
	}
	for _, p := range slices.Concat(Builtin(), own) {
		for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
			words = append(words, part, strings.ToUpper(part), strings.ReplaceAll(part, "*", "x"))
		}
	}
	word := rapid.SampledFrom(words)
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(word, 0, 6).Draw(t, "folder")
		name := word.Draw(t, "name")
		path := append(slices.Clone(parts), name)
		if m.Folder(parts).Ordinary(name) && (m.Protected(path) || m.Vetted(path) || len(m.Leads(path)) > 0 ||
			PointerAt(path) != NoPointer || IsLock(path) || Match(gitDir, name)) {
			t.Errorf("%q is called ordinary", path)
		}
	})
}

func TestOrdinary(t *testing.T) {
	m := builtin(t)
	for path, want := range map[string]bool{
		"a.go": true, "src/a.go": true, "src/ü": true, ".git/objects/ab/cd": true, ".git": false, ".git/config": false, "src/.envrc": false,
		".git/modules/a/HEAD": false, ".vscode/a/b": false, "sbx.yaml": false, "mise.x.toml": false, `a\b/c`: false, "node_modules/a/b.js": true,
	} {
		parts := strings.Split(path, "/")
		if got := m.Folder(parts[:len(parts)-1]).Ordinary(parts[len(parts)-1]); got != want {
			t.Errorf("%q: ordinary %v, want %v", path, got, want)
		}
	}
}
