package configs

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// Kinds of [Widening].
const (
	WidenMount   = "mount"   // a folder of the host outside the project
	WidenMask    = "mask"    // files whose content is hidden unless asked for
	WidenAllow   = "allow"   // a name beyond the presets
	WidenDefault = "default" // every public name
	WidenPort    = "port"    // a port that others than this host can reach
	WidenSecret  = "secret"  // a key of the user's put into requests to hosts of its choice
	WidenMirror  = "mirror"  // a server that the host itself fetches from
)

// Widening is one thing by which the project file, and nobody else, reaches past
// the defaults. What flags, the environment or the user's own file say needs no
// consent.
type Widening struct {
	Kind string   `json:"kind"`
	What string   `json:"what"` // complete: two different wishes never have the same text
	At   Position `json:"at"`
}

// Widening lists what the project file asks for beyond the defaults, in a fixed
// order. Empty means that no consent is needed.
func (c *Config) Widening() []Widening { return slices.Clone(c.widening) }

func (b *builder) widen(source, kind, what string, at Position) {
	if source == sourceProject {
		b.c.widening = append(b.c.widening, Widening{kind, what, at})
	}
}

func compareWidening(a, b Widening) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What))
}

// digest identifies what is asked for, whatever the order and the lines: consent
// holds for exactly this and for this project.
func digest(project string, asked []Widening) string {
	parts := make([][2]string, 0, len(asked))
	for _, w := range asked {
		parts = append(parts, [2]string{w.Kind, w.What})
	}
	slices.SortFunc(parts, func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	text, err := json.Marshal([]any{"sbx-trust-1", project, slices.Compact(parts)})
	if err != nil {
		return "" // strings marshal; an empty digest is never granted
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
