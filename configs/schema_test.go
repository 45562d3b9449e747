package configs

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(SchemaURL, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(SchemaURL)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// TestSchemaFile keeps the file that editors fetch as the structs have it.
// `go test ./configs -run SchemaFile -update` writes it.
func TestSchemaFile(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("sbx.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("sbx.schema.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("sbx.schema.json is not what the structs say, %v: run with -update", err)
	}
}

var update = flag.Bool("update", false, "write sbx.schema.json")

// design is the example of DESIGN.md without what this version lacks.
const design = `version: 1
name: shop
agent: claude
resources: {cpus: 4, memory: 4GiB, disk: 20GiB}
image:
  base: debian-13
  packages: [postgresql-client]
  run: ["npm install -g @anthropic-ai/claude-code"]
workspace:
  mode: mount
  path: ""
  mounts: [{source: ../home, target: /design, readonly: true}]
  protect: ["deploy/**"]
network:
  default: deny
  presets: [npm, github]
  allow: ["api.example.com", "*.example.org:443,8443", "github.com:22/tcp", {host: api.example.net, methods: [GET], paths: ["/v1/**"], max_upload: 10MiB}]
  deny: ["gist.github.com"]
  ask: 30s
ports: ["3000", "127.0.0.1:8080:80"]
env: {NODE_ENV: development}
secrets:
  - {name: ANTHROPIC_API_KEY, hosts: [api.anthropic.com], header: x-api-key}
docker: {enabled: true}
`

func TestExamplesAreValid(t *testing.T) {
	s := compiled(t)
	for name, text := range map[string]string{"design": design, "template": string(InitTemplate())} {
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s against the schema: %v", name, err)
		}
		c := newWorld(t, text).load()
		if len(c.Warnings) != 0 {
			t.Errorf("%s: warnings %q", name, c.Warnings)
		}
	}
}

// TestTemplate: it points editors to the schema, and changes nothing; with its
// examples uncommented it is still valid.
func TestTemplate(t *testing.T) {
	first, rest, _ := strings.Cut(string(InitTemplate()), "\n")
	if first != "# yaml-language-server: $schema="+SchemaURL {
		t.Errorf("first line %q", first)
	}
	if c := newWorld(t, string(InitTemplate())).load(); len(c.Widening()) != 0 || len(c.Network.Rules) != 0 {
		t.Errorf("the template asks for something: %v", c.Widening())
	}
	var full []string
	for line := range strings.Lines(rest) {
		bare := strings.TrimPrefix(strings.TrimSpace(line), "# ")
		commented := strings.HasPrefix(strings.TrimSpace(line), "# ") && !strings.HasPrefix(bare, "sbx")
		if key, _, ok := strings.Cut(bare, ":"); ok && commented && strings.Trim(key, " abcdefghijklmnopqrstuvwxyz") == "" {
			line = strings.Replace(line, "# ", "", 1)
		}
		full = append(full, line)
	}
	text := strings.ReplaceAll(strings.Join(full, ""), "../design", "../home")
	if err := validate(t, compiled(t), text); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	if c := newWorld(t, text).load(); c.Name != "shop" || len(c.Ports) != 1 || len(c.Workspace.Mounts) != 1 || len(c.Network.Rules) < 2 {
		t.Errorf("the template's examples were not taken: %+v in\n%s", c, text)
	}
}

// TestSchemaRefuses what the reader refuses as well.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	for _, text := range []string{
		"naem: x\n", "network: {alow: []}\n", "resources: {memory: 4GB}\n", "resources: {cpus: \"4\"}\n", "ports: [3000]\n", "ports: [\"a:1\"]\n",
		"network: {presets: [nmp]}\n", "agent: cluade\n", "version: 2\n", "docker: {enabled: on}\n",
		"secrets: [{name: A}]\n", "network: {ask: 30}\n", "network: {proxy: direct}\n", "network: {allow: [{methods: [GET]}]}\n",
		"network: {allow: [{host: a.example.com, paths: [v1]}]}\n",
		"workspace: {mode: copy}\n", "workspace: {mounts: [{target: /x}]}\n", "env: {A: 1}\n", "network: {default: audit}\n",
	} {
		if validate(t, s, text) == nil {
			t.Errorf("the schema takes %q", text)
		}
		if _, err := Load(newWorld(t, text).opts); err == nil {
			t.Errorf("Load takes %q", text)
		}
	}
}
