package guard

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// BuiltinMask is masked in every workspace: where people keep secrets beside their code. A
// pattern with "!" takes back what one before it masked: samples that hold none.
func BuiltinMask() []string {
	return []string{
		".env", ".env.*", ".env-*", ".env_*", ".env~", "!.env.example", "!.env.*.example", "!.env.sample", "!.env.template", "!.env.dist", "!.env.schema",
		"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk",
		"*_rsa", "*_ed25519", "*.ppk", "privkey*.pem", ".ssh", "config/master.key", "config/credentials/*.key",
		".netrc", ".pgpass", ".my.cnf", ".vault-token", ".s3cfg", ".boto", ".dockercfg", ".pypirc", ".git-credentials", ".aws",
		".azure", ".gnupg", ".kube", "kubeconfig", ".config/gcloud", ".config/gh", ".streamlit/secrets.toml", ".docker/config.json",
		"credentials.json", "application_default_credentials.json", "*firebase-adminsdk*.json", "service-account*.json",
		"client_secret*.json", "*.kdbx", "*.keystore", "*.jks", "*.p12", "*.pfx",
	}
}

// Mask says which files' content a guest never sees. It is immutable. The last pattern that matches decides.
type Mask struct {
	patterns []maskPattern
	// What a masked path can end in, for [Mask.Ends].
	names    map[string]bool
	suffixes []string
	globs    []string
}

type maskPattern struct {
	pattern
	clear bool // begins with "!"
}

// NewMask compiles the built-in patterns and own ones, of the form that [New] takes, "!" before one
// takes back. Files in node_modules are other people's, and not masked by the built-in patterns.
func NewMask(own []string) (*Mask, error) {
	m := &Mask{names: map[string]bool{}}
	for i, p := range append(BuiltinMask(), own...) {
		text, clear := strings.CutPrefix(p, "!")
		compiled, err := compile(text)
		if err != nil {
			return nil, fmt.Errorf("mask: %w", err)
		}
		compiled.shallow = i < len(BuiltinMask())
		m.patterns = append(m.patterns, maskPattern{compiled, clear})
		m.addEnd(compiled.parts[len(compiled.parts)-1])
	}
	return m, nil
}

func (m *Mask) addEnd(last string) {
	const special = `*?[\`
	suffix, ok := strings.CutPrefix(last, "*")
	switch {
	case !strings.ContainsAny(last, special):
		m.names[last] = true
	case ok && !strings.ContainsAny(suffix, special):
		m.suffixes = append(m.suffixes, suffix)
	default:
		m.globs = append(m.globs, last)
	}
}

// Masked tells whether a path (components below the workspace's root) is masked: it or a folder
// above it is what the last matching pattern names.
func (m *Mask) Masked(parts []string) bool {
	folded, packages := foldAll(parts), packagesAt(parts)
	masked := false
	for _, p := range m.patterns {
		if masked == p.clear && p.covers(folded, packages) {
			masked = !p.clear
		}
	}
	return masked
}

// Leads is [Matcher.Leads] for what is masked.
func (m *Mask) Leads(parts []string) (rests [][]string) {
	folded, packages := foldAll(parts), packagesAt(parts)
	for _, p := range m.patterns {
		if !p.clear {
			rests = append(rests, p.leads(folded, packages)...)
		}
	}
	return rests
}

// Clears tells whether something at or below a path could be what a pattern with "!" takes back: a folder that is moved
// there may lose masks on what is in it.
func (m *Mask) Clears(parts []string) bool {
	folded, packages := foldAll(parts), packagesAt(parts)
	return slices.ContainsFunc(m.patterns, func(p maskPattern) bool {
		return p.clear && (p.covers(folded, packages) || len(p.leads(folded, packages)) > 0)
	})
}

// Ends tells whether a name could be the end of a masked path: a quick answer before [Mask.Masked].
func (m *Mask) Ends(name string) bool {
	folded := fold(name)
	return m.names[folded] || strings.Contains(folded, "~") ||
		slices.ContainsFunc(m.suffixes, func(suffix string) bool { return strings.HasSuffix(folded, suffix) }) ||
		slices.ContainsFunc(m.globs, func(glob string) bool { return matches(glob, folded) })
}

const (
	// MaxRender is the size, in bytes, up to which [Render] keeps names; what is larger is empty.
	MaxRender = 1 << 20
	// Hidden stands for each value.
	Hidden = "masked-by-sbx"
)

// Render gives what a guest sees of a masked file: of a list of variables (.env) the names, with
// [Hidden] for each value; of all else nothing. The result holds no byte of a value.
func Render(name string, content []byte) []byte {
	rest, ok := strings.CutPrefix(fold(name), ".env")
	if !ok || rest != "" && !strings.ContainsRune("._-~", rune(rest[0])) || len(content) > MaxRender {
		return nil
	}
	var out bytes.Buffer
	var quote []byte // of a value that goes on in the next line
	for line := range bytes.Lines(content) {
		if quote != nil {
			if bytes.Count(line, quote)%2 == 1 {
				quote = nil
			}
			continue
		}
		key, value, ok := bytes.Cut(line, []byte{'='})
		if ok && variable(bytes.TrimSpace(key)) {
			fmt.Fprintf(&out, "%s=%s\n", bytes.TrimSpace(key), Hidden)
			quote = unclosed(bytes.TrimSpace(value))
		}
	}
	return out.Bytes()
}

// unclosed is the quote that a value begins with and does not end with.
func unclosed(value []byte) []byte {
	if len(value) > 0 && strings.ContainsRune("\"'`", rune(value[0])) && bytes.Count(value, value[:1])%2 == 1 {
		return value[:1]
	}
	return nil
}

// variable: a name as a shell takes it, with or without export. Anything else might be the rest of a
// value of several lines, so that only short plain words pass.
func variable(key []byte) bool {
	key = bytes.TrimPrefix(key, []byte("export "))
	if len(key) == 0 || len(key) > 64 || key[0] >= '0' && key[0] <= '9' {
		return false
	}
	for _, c := range key {
		if c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
