package configs

import (
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/sbx-vm/sbx/netfilter"
)

// Rule is one entry of an allow or deny list: the short text, or a map with
// methods and paths.
type Rule struct {
	Host      string   `yaml:"host"`
	Methods   []string `yaml:"methods"`
	Paths     []string `yaml:"paths"`
	MaxUpload Size     `yaml:"max_upload"`

	at Position
}

func (r *Rule) setPosition(at Position) { r.at = at }

// UnmarshalText takes the short form. What the pattern means is netfilter's.
func (r *Rule) UnmarshalText(text []byte) error {
	r.Host = string(text)
	return nil
}

// String shows all of the rule: it is what the user agrees to, so that letters which only look like others
// show as A-labels. Neither a pattern, nor a method, nor a path of a valid rule holds a space: no two rules
// that mean different things have the same text.
func (r Rule) String() string {
	words := []string{netfilter.CanonicalPattern(r.Host)}
	if len(r.Methods) > 0 {
		words = append(words, strings.Join(r.Methods, ","))
	}
	words = append(words, r.Paths...)
	if r.MaxUpload != 0 {
		words = append(words, "up to "+r.MaxUpload.String())
	}
	return strings.Join(words, " ")
}

// JSONSchema is the short form or the long one.
func (Rule) JSONSchema() *jsonschema.Schema {
	type long struct {
		Host      string   `yaml:"host" jsonschema:"required,minLength=1,description=name with ports as in the short form"`
		Methods   []string `yaml:"methods" jsonschema:"minItems=1,maxItems=16,description=requests with these methods alone; the host is intercepted"`
		Paths     []string `yaml:"paths" jsonschema:"minItems=1,maxItems=32,pattern=^/,description=these paths alone: * is any text in a segment and ** any segments"`
		MaxUpload Size     `yaml:"max_upload" jsonschema:"description=what may go up to each host while the sandbox runs"`
	}
	object := reflector().Reflect(&long{})
	object.Version = ""
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", MinLength: new(uint64(1)), Examples: []any{"api.example.com", "*.example.org:443,8443", "github.com:22/tcp", "140.82.112.0/20:22/tcp"}},
		object,
	}}
}

// HostRule of the user's file lets a name lead to the host or a private network.
type HostRule struct {
	Name string `yaml:"name"` // a pattern as in a rule
	To   string `yaml:"to"`   // an address, an address with port, or a range

	at Position
}

func (h *HostRule) setPosition(at Position) { h.at = at }
