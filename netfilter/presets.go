package netfilter

import (
	_ "embed"
	"fmt"

	"github.com/goccy/go-yaml"
)

//go:embed presets.yaml
var presetsYAML []byte // embedded

// Preset is a named list of allow rules for a common purpose.
type Preset struct {
	Name        string
	Description string
	Rules       []Rule // Origin.Source is "preset:" and the name
}

type presetFile struct {
	Name        string       `yaml:"name"`
	Description string       `yaml:"description"`
	Allow       []presetRule `yaml:"allow"`
}

type presetRule struct {
	Host    string   `yaml:"host"`
	Methods []string `yaml:"methods"`
	Paths   []string `yaml:"paths"`
}

// Presets gives the built-in presets in the order of the file. The result is the
// caller's own. An error means that sbx was built from a broken file.
func Presets() ([]Preset, error) {
	var files []presetFile
	if err := yaml.UnmarshalWithOptions(presetsYAML, &files, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("built-in network presets: %w", err)
	}
	presets := make([]Preset, len(files))
	for i, f := range files {
		presets[i] = Preset{Name: f.Name, Description: f.Description}
		for _, r := range f.Allow {
			presets[i].Rules = append(presets[i].Rules, Rule{
				Action: Allow, Pattern: r.Host, Methods: r.Methods, Paths: r.Paths,
				Origin: Origin{Source: "preset:" + f.Name},
			})
		}
	}
	return presets, nil
}
