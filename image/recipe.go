package image

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/sbx-vm/sbx/image/deb"
)

//go:embed recipes/*.yaml
var recipes embed.FS

// Recipe says what is in an image. See recipes/ for one with comments.
type Recipe struct {
	Name     string            `yaml:"name" json:"name"`
	Codename string            `yaml:"codename" json:"codename"`
	Suites   []string          `yaml:"suites" json:"suites"`     // the first must exist on a mirror
	Security string            `yaml:"security" json:"security"` // suite of the security archive
	Packages []string          `yaml:"packages" json:"packages"`
	Kernel   map[string]string `yaml:"kernel" json:"kernel"`   // package by architecture
	Modules  []string          `yaml:"modules" json:"modules"` // for the initramfs
	Stubs    []Stub            `yaml:"stubs" json:"stubs"`
	Npm      Npm               `yaml:"npm" json:"npm"`
	Layers   [][]string        `yaml:"-" json:"-"` // provisioning, see With; lowest first
}

// Stub is an empty package that stands for a dependency nobody wants, see [deb.Stub].
type Stub struct {
	Name     string   `yaml:"name" json:"name"`
	Provides []string `yaml:"provides" json:"provides"`
	Reason   string   `yaml:"reason" json:"reason"`
}

func (s Stub) deb() deb.Stub {
	return deb.Stub{Name: s.Name, Provides: s.Provides, Reason: s.Reason}
}

// Npm pins npm's tarball.
type Npm struct {
	Version   string `yaml:"version" json:"version"`
	Integrity string `yaml:"integrity" json:"integrity"` // sha512-…, as the registry says it
}

// LoadRecipe returns a built-in recipe.
func LoadRecipe(name string) (Recipe, error) {
	data, err := recipes.ReadFile("recipes/" + name + ".yaml")
	if err != nil {
		return Recipe{}, fmt.Errorf("no recipe %q; there is: %s", name, Names())
	}
	var r Recipe
	if err := yaml.UnmarshalWithOptions(data, &r, yaml.Strict()); err != nil {
		return Recipe{}, fmt.Errorf("recipe %s: %w", name, err)
	}
	return r, nil
}

// Names lists the built-in recipes.
func Names() []string {
	entries, err := recipes.ReadDir("recipes")
	if err != nil {
		return nil // embedded: cannot happen
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name()[:len(e.Name())-len(".yaml")])
	}
	return names
}

// With returns the recipe with a project's own packages and groups of
// provisioning commands, of which each makes a layer; empty groups make none.
// The packages' order and what is there anyway make no other image.
func (r Recipe) With(packages []string, layers ...[]string) Recipe {
	more := slices.DeleteFunc(slices.Clone(packages), func(name string) bool { return slices.Contains(r.Packages, name) })
	slices.Sort(more)
	r.Packages = slices.Concat(r.Packages, slices.Compact(more))
	r.Layers = slices.Clone(r.Layers)
	for _, run := range layers {
		if len(run) > 0 {
			r.Layers = append(r.Layers, run)
		}
	}
	return r
}

// Key names the recipe's content for one architecture, before any index is
// read: an image with this key will do until newer packages are asked for.
func (r Recipe) Key(arch string) string {
	key := r.baseKey(arch)
	for _, run := range r.Layers {
		key = layerKey(key, run)
	}
	return key
}

// baseKey is Key without the layers.
func (r Recipe) baseKey(arch string) string { return digest(formatVersion, arch, r) }

// layerKey names what the commands make of what below names.
func layerKey(below string, run []string) string { return digest("layer", below, run) }

// digest is 16 hex digits of SHA-256 over the JSON of its parts: short enough
// for a path, long enough that nobody meets a collision by chance. It names
// what the host itself made, it guards nothing.
func digest(parts ...any) string {
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, part := range parts {
		if err := encoder.Encode(part); err != nil {
			panic("image: digest of a value that is no JSON: " + err.Error())
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
