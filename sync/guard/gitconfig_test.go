package guard

import (
	"errors"
	"strings"
	"testing"
)

func TestVetted(t *testing.T) {
	m := builtin(t)
	for path, want := range map[string]bool{
		".git/config": true, "a/b/.GIT/Config": true, ".git/modules/a/b/config": true, ".git/modules/config": true,
		".git/config.worktree": false, ".git/config/x": false, "config": false, ".git/x/config": false, ".git": false,
	} {
		parts := strings.Split(path, "/")
		if got := m.Vetted(parts); got != want {
			t.Errorf("%q: vetted %v, want %v", path, got, want)
		}
		if want && !m.Protected(parts) {
			t.Errorf("%q is vetted and not protected", path)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	const lfs = "[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n"
	const plain = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
	for name, c := range map[string]struct {
		before, after string
		bad           bool
	}{
		"git init": {after: plain},
		"git clone": {before: plain, after: plain + "[remote \"origin\"]\n\turl = git@example.org:a/b\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n" +
			"[branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n"},
		"the host's kept":       {before: lfs, after: lfs + plain},
		"the same, unreadable":  {before: "[x", after: "[x"},
		"the host's changed":    {before: lfs, after: strings.Replace(lfs, "lfs clean", "lfs; evil", 1), bad: true},
		"the host's dropped":    {before: lfs, after: plain, bad: true},
		"an empty subsection":   {before: "[alias \"\"]\na = b", after: "[alias]\na = b", bad: true},
		"the host's renamed":    {before: lfs, after: strings.Replace(lfs, "\"lfs\"", "\"x\"", 1), bad: true},
		"host's is unreadable":  {before: "[x", after: plain, bad: true},
		"fsmonitor":             {after: "[core]\nfsmonitor = evil", bad: true},
		"case":                  {after: "[CORE]\nFsMonitor = evil", bad: true},
		"hooksPath":             {after: "[core]\nhookspath=x", bad: true},
		"worktree":              {after: "[core]\nworktree=/", bad: true},
		"include":               {after: "[include]\npath=x", bad: true},
		"includeIf":             {after: "[includeIf \"gitdir:x\"]\npath=x", bad: true},
		"alias":                 {after: "[alias]\nx=!evil", bad: true},
		"ext":                   {after: "[remote \"o\"]\nurl = ext::sh -c evil", bad: true},
		"ext, quoted":           {after: "[remote \"o\"]\nurl = ext:\":\"sh -c evil", bad: true},
		"uploadpack":            {after: "[remote \"o\"]\nuploadpack = evil", bad: true},
		"option for an address": {after: "[remote \"o\"]\nurl = --upload-pack=evil", bad: true},
		"update of submodule":   {after: "[submodule \"o\"]\nupdate = !evil", bad: true},
		"key behind a section":  {after: "[core] fsmonitor = evil", bad: true},
		"two sections":          {after: "[color][core]\nfsmonitor = evil", bad: true},
		"dotted section":        {after: "[color.core]\nx = y", bad: true},
		"continued line":        {after: "[color]\nui = a\\\n[core]", bad: true},
		"continued, with CR":    {after: "[color]\nui = a\\\r\n[core]", bad: true},
		"lone CR":               {after: "[color]\r[core]", bad: true},
		"key before a section":  {after: "fsmonitor = evil", bad: true},
		"byte order mark":       {after: "\ufeff[core]", bad: true},
		"NUL":                   {after: "[color]\nui = \x00", bad: true},
		"comments":              {after: "# [core\n; x\n" + plain},
	} {
		if err := CheckConfig([]byte(c.before), []byte(c.after)); c.bad != errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalNamesTheEntry(t *testing.T) {
	for after, want := range map[string]string{
		"[core]\nfsmonitor = x": `"core.fsmonitor=x" is new`, "": `"alias.a=!b" is missing`,
		"[alias]\na = " + strings.Repeat("y", 1000): `"alias.a=yyyy`,
	} {
		err := CheckConfig([]byte("[alias]\na = !b"), []byte(after))
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzCheckConfig(f *testing.F) {
	f.Add("[core]\n\tbare = false\n")
	f.Fuzz(func(t *testing.T, config string) {
		if CheckConfig(nil, []byte(config)) != nil {
			return
		}
		for _, evil := range []string{"[core]\nfsmonitor = x\n", "[alias]\nx = !y\n"} {
			if CheckConfig([]byte(config), []byte(config+"\n"+evil)) == nil {
				t.Errorf("%q hides %q", config, evil)
			}
		}
	})
}
