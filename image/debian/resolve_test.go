package debian_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/image/debian"
)

// parse turns lines "name version; Field: value; …" into packages.
func parse(t *testing.T, lines ...string) []debian.Package {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		head, fields, _ := strings.Cut(line, ";")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s.deb\nSize: 1\nSHA256: %064d\n", name, version, name, 0)
		for field := range strings.SplitSeq(fields, ";") {
			if field = strings.TrimSpace(field); field != "" {
				text.WriteString(field + "\n")
			}
		}
		text.WriteString("\n")
	}
	list, err := debian.ParsePackages([]byte(text.String()), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func resolve(t *testing.T, lines []string, roots ...string) (string, error) {
	t.Helper()
	u, err := debian.NewUniverse(parse(t, lines...))
	if err != nil {
		t.Fatal(err)
	}
	list, err := u.Resolve(roots)
	var names []string
	for _, p := range list {
		names = append(names, p.Name+"="+p.Version)
	}
	return strings.Join(names, " "), err
}

func TestResolve(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		roots []string
		want  string
		err   string
	}{
		{"dependencies first", []string{"aa 1; Depends: bb", "bb 1; Pre-Depends: cc", "cc 1"}, []string{"aa"}, "cc=1 bb=1 aa=1", ""},
		{"newest version", []string{"aa 1.9", "aa 1.10", "aa 1.10~rc1"}, []string{"aa"}, "aa=1.10", ""},
		{"epoch counts", []string{"aa 9", "aa 1:1"}, []string{"aa"}, "aa=1:1", ""},
		{"first alternative", []string{"aa 1; Depends: bb | cc", "bb 1", "cc 1"}, []string{"aa"}, "bb=1 aa=1", ""},
		{"alternative that is asked for", []string{"aa 1; Depends: bb | cc", "bb 1", "cc 1"}, []string{"aa", "cc"}, "cc=1 aa=1", ""},
		{"alternative that exists", []string{"aa 1; Depends: bb | cc", "cc 1"}, []string{"aa"}, "cc=1 aa=1", ""},
		{"versioned alternative", []string{"aa 1; Depends: bb (>= 2) | cc", "bb 1", "cc 1"}, []string{"aa"}, "cc=1 aa=1", ""},
		{"virtual package", []string{"aa 1; Depends: mta", "zz 1; Provides: mta; Priority: important", "bb 1; Provides: mta"}, []string{"aa"}, "zz=1 aa=1", ""},
		{"provider that is there", []string{"aa 1; Depends: mta", "bb 1; Provides: mta", "zz 1; Provides: mta"}, []string{"aa", "zz"}, "zz=1 aa=1", ""},
		{"versioned provides", []string{"aa 1; Depends: api (>= 3)", "bb 1; Provides: api (= 2)", "cc 1; Provides: api (= 3)"}, []string{"aa"}, "cc=1 aa=1", ""},
		{"plain provides has no version", []string{"aa 1; Depends: api (>= 3)", "bb 1; Provides: api"}, []string{"aa"}, "", "api"},
		{"stub for what nobody wants", []string{"aa 1; Depends: big (>= 1) | small", "big 2", "stub 1; Provides: small"}, []string{"aa", "stub"}, "stub=1 aa=1", ""},
		{"cycle", []string{"aa 1; Depends: bb", "bb 1; Depends: aa"}, []string{"aa"}, "bb=1 aa=1", ""},
		{"any architecture", []string{"aa 1; Depends: bb:any", "bb 1"}, []string{"aa"}, "bb=1 aa=1", ""},
		{"recommends are left", []string{"aa 1; Recommends: bb", "bb 1"}, []string{"aa"}, "aa=1", ""},
		{"missing", []string{"aa 1; Depends: nope"}, []string{"aa"}, "", `"nope"`},
		{"unknown root", []string{"aa 1"}, []string{"bb"}, "", `"bb"`},
		{"conflict", []string{"aa 1; Conflicts: bb", "bb 1"}, []string{"aa", "bb"}, "", "does not go with"},
		{"breaks only older", []string{"aa 1; Breaks: bb (<< 2)", "bb 2"}, []string{"aa", "bb"}, "aa=1 bb=2", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := resolve(t, test.lines, test.roots...)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

// The order of an index says nothing about the result, and everything that a
// package depends on comes before it when there is no cycle.
func TestResolveIsDeterministic(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 12).Draw(r, "n")
		var lines []string
		for i := range n {
			line := fmt.Sprintf("p%02d 1", i)
			if i > 0 {
				dep := rapid.IntRange(0, i-1).Draw(r, "dep")
				line += fmt.Sprintf("; Depends: p%02d | p%02d", dep, rapid.IntRange(0, i-1).Draw(r, "alt"))
			}
			lines = append(lines, line)
		}
		root := fmt.Sprintf("p%02d", n-1)
		want, err := resolve(t, lines, root)
		if err != nil {
			r.Fatal(err)
		}
		got, err := resolve(t, rapid.Permutation(lines).Draw(r, "order"), root)
		if err != nil || got != want {
			r.Fatalf("got %q, %v; want %q", got, err, want)
		}
		names := strings.Fields(want)
		if !slices.IsSorted(names) && len(names) == 0 {
			r.Fatal("nothing resolved")
		}
	})
}

func TestParsePackagesRefuses(t *testing.T) {
	good := "Package: aa\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 5\nSHA256: " + strings.Repeat("0", 64) + "\n"
	for name, text := range map[string]string{
		"path out of the mirror": strings.Replace(good, "pool/a.deb", "../../a.deb", 1),
		"absolute path":          strings.Replace(good, "pool/a.deb", "/pool/a.deb", 1),
		"name that is a path":    strings.Replace(good, "Package: aa", "Package: ../a", 1),
		"negative size":          strings.Replace(good, "Size: 5", "Size: -5", 1),
		"no size":                strings.Replace(good, "Size: 5\n", "", 1),
		"no hash":                strings.Replace(good, "SHA256: ", "SHA256: x", 1),
		"line without a field":   good + "nonsense\n",
	} {
		if _, err := debian.ParsePackages([]byte(text), "amd64"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	list, err := debian.ParsePackages([]byte(good+"Description: x\n continued: line\n\n\n"+strings.Replace(good, "amd64", "arm64", 1)), "amd64")
	if err != nil || len(list) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
}

func FuzzParsePackages(f *testing.F) {
	f.Add("Package: aa\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 5\nSHA256: " +
		strings.Repeat("0", 64) + "\nDepends: a | b (>= 1), c:any\nProvides: x (= 2)\n")
	f.Fuzz(func(_ *testing.T, text string) {
		list, err := debian.ParsePackages([]byte(text), "amd64")
		if err != nil {
			return
		}
		u, err := debian.NewUniverse(list)
		if err != nil || len(list) == 0 {
			return
		}
		u.Resolve([]string{list[0].Name}) //nolint:errcheck // it must end, with or without
	})
}
