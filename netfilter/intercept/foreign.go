package intercept

import (
	"slices"
	"strings"
	"unicode"

	"github.com/sbx-vm/sbx/netfilter"
)

// A foreign credential is one that is not the sandbox's own, sent to a host that a secret is bound to: with a
// key of his own, an attacker could have the host store what he sends (files, gists) in his own account.
// What is looked for is where such hosts take a key; a body and a cookie are not looked at.

// valued gives those of the secrets that have a value. A host whose secret has none may be used with the
// guest's own credentials, else nobody could log in.
func (v *Vault) valued(bound []netfilter.Secret) []netfilter.Secret {
	return slices.DeleteFunc(slices.Clone(bound), func(s netfilter.Secret) bool {
		return !slices.ContainsFunc(v.bindings, func(b Binding) bool { return b.Secret.Name == s.Name && b.Value != "" })
	})
}

// foreignHeader tells whether a header without a placeholder carries a credential where own ones belong.
func foreignHeader(name, value string, own []netfilter.Secret) bool {
	if len(own) == 0 {
		return false
	}
	if plainName(name) == "Sec-Websocket-Protocol" { // where browsers, who cannot set another header, put keys
		value = letters(value)
		return strings.Contains(value, "apikey") || strings.Contains(value, "bearer") || strings.Contains(value, "token")
	}
	same := func(s netfilter.Secret) bool { return s.Header != "" && letters(s.Header) == letters(name) }
	return slices.Contains(credentialHeaders(), letters(name)) || slices.ContainsFunc(own, same)
}

// credentialHeaders are the usual ones, as [letters] gives them.
func credentialHeaders() []string {
	return []string{
		"authorization", "xauthorization", "xapikey", "xgoogapikey", "apikey", "xapitoken", "apitoken", "xaccesstoken", "xauthtoken",
		"xauthkey", "xtoken", "token", "privatetoken", "jobtoken", "deploytoken", "xgithubtoken", "xvaulttoken", "xamzsecuritytoken",
	}
}

// minCredential is shorter than any key, and longer than what else is called "key" or "token" in a query.
const minCredential = 16

// foreignQuery tells whether the target's query carries a credential. No placeholder is put in there, so
// that every one is foreign.
func foreignQuery(target string) bool {
	_, query, _ := strings.Cut(target, "?")
	for part := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(part, "=")
		if len(value) >= minCredential && slices.Contains(credentialFields(), letters(percentDecoded(name))) {
			return true
		}
	}
	return false
}

// credentialFields are the usual ones, as [letters] gives them.
func credentialFields() []string {
	return []string{"key", "apikey", "xapikey", "xgoogapikey", "token", "accesstoken", "authtoken", "oauthtoken", "bearertoken",
		"privatetoken", "xamzsecuritytoken"}
}

// letters is a text without case, hyphens, underscores and dots: servers see few differences between names.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '-', '_', '.':
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}
