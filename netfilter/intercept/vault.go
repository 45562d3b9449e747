package intercept

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/netfilter"
)

// placeholderPrefix begins every placeholder. It looks like a key, because some programs want one that does.
const placeholderPrefix = "sk-sbx-placeholder-"

// NewPlaceholder makes what the guest has in place of a secret's value. It is worth nothing.
func NewPlaceholder() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // never fails (crypto/rand)
	return placeholderPrefix + hex.EncodeToString(b)
}

// Binding is a secret with its value, "" when there is none. It must not be printed.
type Binding struct {
	Secret netfilter.Secret
	Value  string
}

// Vault holds the values. It does not change; a nil Vault holds none. Its errors name secrets, never values.
type Vault struct{ bindings []Binding }

// NewVault takes bindings over. One without placeholder is left out: nothing could stand for it.
func NewVault(bindings []Binding) *Vault {
	return &Vault{slices.DeleteFunc(slices.Clone(bindings), func(b Binding) bool { return b.Secret.Placeholder == "" })}
}

// Errors of Fill.
var (
	ErrMisplaced = errors.New("a secret's placeholder stands where it must not")
	ErrNoValue   = errors.New("the secret has no value")
	ErrForeign   = errors.New("a credential that is not the sandbox's")
)

// SecretError says what is wrong with a request's use of a secret.
type SecretError struct {
	Name  string // of the secret, "" for ErrForeign
	Where string // the header, "target" or "query"
	Err   error
}

func (e *SecretError) Error() string {
	switch {
	case errors.Is(e.Err, ErrNoValue):
		return fmt.Sprintf("the secret %s has no value. On the host: sbx secret set %s", e.Name, e.Name)
	case errors.Is(e.Err, ErrForeign):
		return fmt.Sprintf("%s: %v: this host takes the sandbox's own secrets alone", e.Where, e.Err)
	}
	return fmt.Sprintf("secret %s in %s: %v", e.Name, e.Where, e.Err)
}

func (e *SecretError) Unwrap() error { return e.Err }

// Fill puts the values into a request to a host that bound may be sent to, over a connection that is
// encrypted to the host or not. A placeholder anywhere but where its secret belongs is a [*SecretError], and
// the request must not be sent. filled are the names of the secrets that were put in.
func (v *Vault) Fill(req *Request, bound []netfilter.Secret, encrypted bool) (filled []string, err error) {
	if v == nil {
		return nil, nil
	}
	own := v.valued(bound) // also where they are not sent: plain HTTP may lead to the same server
	if !encrypted {
		bound = nil
	}
	if err := v.checkTarget(req.Method + " " + req.Target); err != nil {
		return nil, err
	}
	if len(own) > 0 && foreignQuery(req.Target) {
		return nil, &SecretError{"", "query", ErrForeign}
	}
	for name, values := range req.Header {
		if b, ok := v.find(name); ok {
			return nil, &SecretError{b.Secret.Name, "a header's name", ErrMisplaced}
		}
		for i, value := range values {
			out, used, err := v.fillValue(name, value, bound)
			if err != nil {
				return nil, err
			}
			if len(used) == 0 && foreignHeader(name, value, own) {
				return nil, &SecretError{"", "header " + name, ErrForeign}
			}
			values[i], filled = out, append(filled, used...)
		}
	}
	slices.Sort(filled)
	return slices.Compact(filled), nil
}

// checkTarget looks at the target as it is and decoded.
func (v *Vault) checkTarget(target string) error {
	for _, text := range []string{target, percentDecoded(target)} {
		if b, ok := v.find(text); ok {
			return &SecretError{b.Secret.Name, "target", ErrMisplaced}
		}
	}
	return nil
}

// find gives a secret whose placeholder is in the text, in any case of letters.
func (v *Vault) find(text string) (Binding, bool) {
	if text = strings.ToLower(text); !strings.Contains(text, placeholderPrefix) {
		return Binding{}, false
	}
	for _, b := range v.bindings {
		if strings.Contains(text, b.Secret.Placeholder) {
			return b, true
		}
	}
	return Binding{}, false
}

// fillValue fills one header's value: plain, or user and password of Basic (RFC 7617).
func (v *Vault) fillValue(header, value string, bound []netfilter.Secret) (string, []string, error) {
	scheme, token, basic := strings.Cut(value, " ")
	if basic && strings.EqualFold(scheme, "basic") {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token)); err == nil {
			out, used, err := v.replace(header, string(plain), bound)
			if err != nil || len(used) == 0 {
				return value, nil, err
			}
			return scheme + " " + base64.StdEncoding.EncodeToString([]byte(out)), used, nil
		}
	}
	return v.replace(header, value, bound)
}

func (v *Vault) replace(header, text string, bound []netfilter.Secret) (string, []string, error) {
	var used []string
	for range len(v.bindings) {
		b, ok := v.find(text)
		if !ok {
			break
		}
		i := slices.IndexFunc(bound, func(s netfilter.Secret) bool { return s.Name == b.Secret.Name })
		switch {
		case i < 0, bound[i].Header != "" && !strings.EqualFold(bound[i].Header, header), !strings.Contains(text, b.Secret.Placeholder):
			return "", nil, &SecretError{b.Secret.Name, "header " + header, ErrMisplaced}
		case b.Value == "":
			return "", nil, &SecretError{b.Secret.Name, "header " + header, ErrNoValue}
		}
		text, used = strings.ReplaceAll(text, b.Secret.Placeholder, b.Value), append(used, b.Secret.Name)
	}
	return text, used, nil
}

// Scrub takes the values out of a response's headers, where a server may echo them, in the forms that
// servers echo in. It reports whether there were any.
func (v *Vault) Scrub(h http.Header, bound []netfilter.Secret) bool {
	if v == nil {
		return false
	}
	found := false
	for _, b := range v.bindings {
		if b.Value == "" || !slices.ContainsFunc(bound, func(s netfilter.Secret) bool { return s.Name == b.Secret.Name }) {
			continue
		}
		for name, values := range h {
			if strings.Contains(strings.ToLower(name), strings.ToLower(b.Value)) {
				delete(h, name)
				found = true
				continue
			}
			for i, value := range values {
				if clean := scrub(value, b); clean != value {
					h[name][i], found = clean, true
				}
			}
		}
	}
	return found
}

func scrub(text string, b Binding) string {
	for _, form := range echoes(b.Value) {
		text = strings.ReplaceAll(text, form, b.Secret.Placeholder)
	}
	// Percent-encoding has more spellings than can be searched for.
	if plain := percentDecoded(text); plain != text && strings.Contains(plain, b.Value) {
		return b.Secret.Placeholder
	}
	return text
}

// percentDecoded decodes what is encoded, and leaves what is not as it is.
func percentDecoded(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if b, err := hex.DecodeString(text[i+1 : i+3]); err == nil {
				out.Write(b)
				i += 2
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

// echoes are the forms in which a server may send a value back: as it is, percent-encoded, and within base64
// of a longer text, where it can begin at three places and its edges hang on what stands beside it.
func echoes(value string) []string {
	forms := []string{value, url.QueryEscape(value), url.PathEscape(value)}
	for _, coding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := coding.EncodeToString(append(make([]byte, before), value...))
			whole := text[(before*8+5)/6 : (before+len(value))*8/6]
			if len(whole) >= minEcho {
				forms = append(forms, whole)
			}
		}
	}
	return forms
}

// minEcho keeps a short value's few characters of base64 from being found everywhere.
const minEcho = 6
