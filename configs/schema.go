package configs

import (
	"encoding/json"
	"fmt"

	"github.com/invopop/jsonschema"

	"github.com/sbx-vm/sbx/netfilter"
)

// SchemaURL is where editors find the schema: the first line of the template
// names it, and the file is generated from the structs, see the tests.
const SchemaURL = "https://raw.githubusercontent.com/sbx-vm/sbx/main/configs/sbx.schema.json"

// Schema gives the JSON Schema of sbx.yaml, indented. Keys that this version
// lacks are not in it.
func Schema() ([]byte, error) {
	s := reflector().Reflect(&File{})
	s.ID = SchemaURL
	s.Title = "sbx project file"
	if err := describeNames(s); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return append(text, '\n'), nil
}

func reflector() *jsonschema.Reflector {
	return &jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, DoNotReference: true, Anonymous: true}
}

// describeNames puts in what is known by data: the names of agents and presets.
func describeNames(s *jsonschema.Schema) error {
	agents, err := Agents()
	if err != nil {
		return err
	}
	presets, err := netfilter.Presets()
	if err != nil {
		return err
	}
	agent, _ := s.Properties.Get("agent")
	for _, a := range agents {
		agent.Enum = append(agent.Enum, a.Name)
	}
	network, _ := s.Properties.Get("network")
	preset, _ := network.Properties.Get("presets")
	for _, p := range presets {
		preset.Items.Enum = append(preset.Items.Enum, p.Name)
	}
	return nil
}

// JSONSchema is a text with a unit.
func (Size) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: sizePattern, Examples: []any{"4GiB"}}
}

// JSONSchema is a Size: 0 is for the user's own file.
func (Reserve) JSONSchema() *jsonschema.Schema { return Size(0).JSONSchema() }

// JSONSchema is a text in one of the three forms.
func (Port) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: portPattern, Examples: []any{"3000", "8080:80", "127.0.0.1:8080:80"}}
}

// JSONSchema is any text.
func (Text) JSONSchema() *jsonschema.Schema { return &jsonschema.Schema{Type: "string"} }

// JSONSchema is a text with a unit.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: durationPattern, Examples: []any{"30s"}}
}
