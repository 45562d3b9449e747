package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostSources(t *testing.T) {
	tests := map[string]struct {
		text   string
		deb822 bool
		want   Sources
	}{
		"one-line": {"# deb http://no.example/debian trixie main\ndeb [arch=amd64 signed-by=/k.gpg] http://m.example/debian/ bookworm main # c\n" +
			"deb-src http://src.example/debian trixie main\ndeb https://s.example/debian-security bookworm-security main\n", false,
			Sources{"http://m.example/debian", "https://s.example/debian-security"}},
		"deb822": {"Types: deb\nURIs: http://m.example/debian\nSuites: trixie trixie-updates\n" +
			"\nTypes: deb\nURIs: http://m.example/sec\nSuites: trixie-security\n", true,
			Sources{"http://m.example/debian", "http://m.example/sec"}},
		"disabled":                          {"Enabled: no\nURIs: http://m.example/debian\nSuites: trixie\n", true, Sources{}},
		"others' archives":                  {"deb https://x.example/apt cloud-sdk-bookworm main\ndeb https://y.example nodistro main\n", false, Sources{}},
		"no network":                        {"deb file:/srv/debian trixie main\ndeb cdrom:[x]/ trixie main\n", false, Sources{}},
		"old security suites":               {"deb http://s.example/sec bullseye/updates main\n", false, Sources{Main: "http://s.example/sec"}},
		"only backports":                    {"deb http://m.example/debian bookworm-backports main\n", false, Sources{Main: "http://m.example/debian"}},
		"credentials are not ours to store": {"deb http://me:pw@m.example/debian trixie main\n", false, Sources{Main: "http://m.example/debian"}},
		"broken":                            {"deb [arch=amd64\ndeb\n: :\ndeb :// trixie main\n", false, Sources{}},
	}
	for name, test := range tests {
		if got := parseSources(test.text, test.deb822); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

// warnings keeps what was warned of.
type warnings struct {
	silent
	texts *[]string
}

func (w warnings) Warn(text string) { *w.texts = append(*w.texts, text) }

func TestMirrorOrder(t *testing.T) {
	r := testRecipe()
	host := Sources{Main: "http://host.example/debian", Security: "http://host.example/sec"}
	tests := []struct {
		name     string
		options  Options
		want     string
		warnings int
	}{
		{"option before host", Options{Mirror: "http://mine.example/debian/", Host: Host{Sources: host}},
			"http://mine.example/debian http://mine.example/debian http://host.example/sec", 0},
		{"host", Options{Host: Host{Sources: host}}, "http://host.example/debian http://host.example/debian http://host.example/sec", 0},
		{"neither", Options{}, defaultMirror + " " + defaultMirror + " " + defaultSecurity, 0},
		{"option and no security known", Options{Mirror: "http://mine.example/debian"}, "http://mine.example/debian http://mine.example/debian", 1},
	}
	for _, test := range tests {
		var texts []string
		test.options.Progress = warnings{texts: &texts}
		var bases []string
		for _, repo := range test.options.repos(r) {
			bases = append(bases, repo.Base)
			if len(repo.Keys) == 0 {
				t.Errorf("%s: %s has no keys", test.name, repo.Suite)
			}
		}
		if got := strings.Join(bases, " "); got != test.want || len(texts) != test.warnings {
			t.Errorf("%s: got %s, warnings %v", test.name, got, texts)
		}
	}
}

func TestReadHost(t *testing.T) {
	root, home := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/apt/sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "etc/apt/sources.list.d/debian.sources"), "Types: deb\nURIs: http://m.example/debian\nSuites: trixie\n")
	write(filepath.Join(home, ".npmrc"), "//r.example/:_authToken=x\nregistry = \"https://r.example/npm/\"\n")
	h := ReadHost(context.Background(), root, home, nil)
	if h.Sources.Main != "http://m.example/debian" || h.Registry != "https://r.example/npm/" {
		t.Errorf("host is %+v", h)
	}
	h = ReadHost(context.Background(), root, home, []string{"npm_config_registry=https://e.example/"})
	if h.Registry != "https://e.example/" {
		t.Errorf("environment is not heard: %+v", h)
	}
}

func TestBuiltInRecipe(t *testing.T) {
	r, err := LoadRecipe("debian-13")
	if err != nil {
		t.Fatal(err)
	}
	file, err := Options{}.npm(context.Background(), r.Npm)
	if err != nil || !strings.HasPrefix(file.URL, defaultRegistry+"/npm/-/npm-") {
		t.Errorf("npm is %+v, %v", file, err)
	}
	if r.Kernel["amd64"] == "" || r.Kernel["arm64"] == "" {
		t.Errorf("kernels are %v", r.Kernel)
	}
	if _, err := LoadRecipe("../lock"); err == nil || !strings.Contains(err.Error(), "debian-13") {
		t.Errorf("unknown recipe: %v", err)
	}
	if r.Key("amd64") == r.Key("arm64") || r.Key("amd64") == r.With([]string{"zsh"}).Key("amd64") {
		t.Error("different recipes have the same key")
	}
	if r.Key("amd64") != r.With([]string{"git"}).With(nil).Key("amd64") {
		t.Error("a package that is there anyway makes another image")
	}
	if r.Key("amd64") != r.With(nil, nil, []string{}).Key("amd64") {
		t.Error("no commands make another image")
	}
	if r.With(nil, []string{"a", "b"}).Key("amd64") == r.With(nil, []string{"a"}, []string{"b"}).Key("amd64") {
		t.Error("one layer and two have the same key")
	}
}
