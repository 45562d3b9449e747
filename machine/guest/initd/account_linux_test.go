package initd

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestReplaceUser(t *testing.T) {
	const line = "agent:x:1000:1000:sbx:/home/agent:/bin/bash"
	for name, c := range map[string]struct{ before, after []string }{
		"empty":           {nil, []string{line}},
		"new":             {[]string{"root:x:0:0::/root:/bin/bash"}, []string{"root:x:0:0::/root:/bin/bash", line}},
		"again":           {[]string{line}, []string{line}},
		"other ids":       {[]string{"agent:x:501:20::/old:/bin/sh"}, []string{line}},
		"id of another":   {[]string{"debian:x:1000:1000::/home/debian:/bin/bash"}, []string{line}},
		"group of an id":  {[]string{"www:x:33:1000::/:/bin/sh"}, []string{"www:x:33:1000::/:/bin/sh", line}},
		"damaged line":    {[]string{"agent", "garbage", ""}, []string{"garbage", "", line}},
		"name as a start": {[]string{"agents:x:7:7::/:/bin/sh"}, []string{"agents:x:7:7::/:/bin/sh", line}},
	} {
		if diff := cmp.Diff(c.after, replaceUser("agent", "1000", line)(slices.Clone(c.before))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestGroups(t *testing.T) {
	for name, c := range map[string]struct{ before, after []string }{
		"none": {nil, []string{"docker:x:900:agent", "agent:x:1000:"}},
		"Debian's": {
			[]string{"sudo:x:27:", "docker:x:102:", "users:x:100:"},
			[]string{"sudo:x:27:agent", "docker:x:102:agent", "users:x:100:", "agent:x:1000:"},
		},
		"again":        {[]string{"sudo:x:27:agent", "docker:x:102:a,agent", "agent:x:1000:"}, []string{"sudo:x:27:agent", "docker:x:102:a,agent", "agent:x:1000:"}},
		"id taken":     {[]string{"docker:x:102:", "dialout:x:1000:"}, []string{"docker:x:102:agent", "dialout:x:1000:"}},
		"900 is taken": {[]string{"x:x:900:"}, []string{"x:x:900:", "docker:x:901:agent", "agent:x:1000:"}},
		"damaged":      {[]string{"sudo:x", "docker:x:5:"}, []string{"sudo:x", "docker:x:5:agent", "agent:x:1000:"}},
	} {
		if diff := cmp.Diff(c.after, groupsWith(slices.Clone(c.before), "agent", "1000")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever stands in the file, a second boot changes nothing and the user is there once.
func TestAccountFilesSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		field := rapid.StringMatching(`[a-z0-9,]{0,4}`)
		before := rapid.SliceOf(rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(field, 0, 8).Draw(t, "fields"), ":")
		})).Draw(t, "lines")
		id := strconv.Itoa(rapid.IntRange(0, 2000).Draw(t, "id"))
		edits := map[string]func([]string) []string{
			"user":  replaceUser("agent", id, "agent:x:"+id),
			"group": func(l []string) []string { return groupsWith(l, "agent", id) },
		}
		for name, edit := range edits {
			once := edit(slices.Clone(before))
			twice := edit(slices.Clone(once))
			if diff := cmp.Diff(once, twice); diff != "" {
				t.Fatalf("%s: %s", name, diff)
			}
		}
	})
}

func TestEditLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	add := func(lines []string) []string {
		if slices.Contains(lines, "new") {
			return lines
		}
		return append(lines, "new")
	}
	if err := editLines(path, 0o640, add); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a\nb"), 0o640); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := editLines(path, 0o644, add); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "a\nb\nnew\n" {
		t.Errorf("%q, %v", data, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	if err := editLines(filepath.Dir(path), 0o644, add); err == nil {
		t.Error("a folder was edited")
	}
}
