package guard

import (
	"errors"
	"strings"
	"testing"
)

func TestVetted(t *testing.T) {
	m := builtin(t)
	for path, want := range map[string]bool{
		".git/config": true, "a/b/.GIT/Config": true, ".git/modules/a/b/config": true, ".git/modules/config": true, ".git/worktrees/a/modules/b/config": true,
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
		"very long":             {after: "[color]\n" + strings.Repeat("#", 1<<17) + "\n[core]fsmonitor=x", bad: true},
		"no value":              {after: "[core]\nfsmonitor", bad: true},
		"old subsection":        {after: "[remote.o]\nuploadpack = evil", bad: true},
		"old subsection, quote": {after: "[remote.\"o\"]\nuploadpack = evil", bad: true},
		"comment behind":        {after: "[color] # x\n[core]\nfsmonitor = x", bad: true},
		"a folder":              {after: "[remote \"o\"]\nurl = ./evil.git", bad: true},
		"a folder, absolute":    {after: "[remote \"o\"]\nurl = /proc/self/cwd/evil.git", bad: true},
		"a folder of a user's":  {after: "[remote \"o\"]\nurl = ~/shop/evil.git", bad: true},
		"a folder's URL":        {after: "[remote \"o\"]\nurl = file:///home/u/shop/evil.git", bad: true},
		"a folder to push to":   {after: "[remote \"o\"]\nurl = https://example.org/a\npushurl = evil.git", bad: true},
		"a folder, colon later": {after: "[remote \"o\"]\nurl = ./a:b", bad: true},
		"a branch's folder":     {after: "[branch \"main\"]\nremote = evil.git", bad: true},
		"a branch to push to":   {after: "[branch \"main\"]\npushRemote = ../evil.git", bad: true},
		"a branch of this":      {after: "[branch \"main\"]\nremote = .\nmerge = refs/heads/x"},
		"a submodule's folder":  {after: "[submodule \"a\"]\nurl = ./evil.git", bad: true},
		"the host's folder":     {before: "[remote \"o\"]\nurl = ../x.git", after: "[remote \"o\"]\nurl = ../x.git\n[branch \"m\"]\nremote = o"},
		"its remote goes": {before: "[remote \"o\"]\nurl = https://example.org/a\n[branch \"m\"]\nremote = o",
			after: "[branch \"m\"]\nremote = o", bad: true},
		"URLs":     {after: "[remote \"o\"]\nurl = ssh://git@example.org:22/a\n[remote \"p\"]\nurl = host:a\nurl = git://example.org/a"},
		"comments": {after: "# [core\n; x\n" + plain},
	} {
		if err := CheckConfig([]string{".git", "config"}, []byte(c.before), []byte(c.after)); c.bad != errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// In a clone that the guest made, its origin may be a folder.
func TestCloneOfAFolder(t *testing.T) {
	const clone = "[remote \"origin\"]\n\turl = /workspace/origin\n"
	for path, bad := range map[string]bool{"life/clone/.git/config": false, ".git/config": true, ".GIT/modules/a/config": true} {
		if err := CheckConfig(strings.Split(path, "/"), nil, []byte(clone)); bad != errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestRefusalNamesTheEntry(t *testing.T) {
	for after, want := range map[string]string{
		"[core]\nfsmonitor = x": `"core.fsmonitor=x" is new`, "": `"alias.a=!b" is missing`,
		"[alias]\na = " + strings.Repeat("y", 1000): `"alias.a=yyyy`,
	} {
		err := CheckConfig(nil, []byte("[alias]\na = !b"), []byte(after))
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzCheckConfig(f *testing.F) {
	f.Add("[core]\n\tbare = false\n")
	f.Fuzz(func(t *testing.T, config string) {
		if CheckConfig(nil, nil, []byte(config)) != nil {
			return
		}
		for _, evil := range []string{"[core]\nfsmonitor = x\n", "[alias]\nx = !y\n"} {
			if CheckConfig(nil, []byte(config), []byte(config+"\n"+evil)) == nil {
				t.Errorf("%q hides %q", config, evil)
			}
		}
	})
}
