package intercept

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sbx-vm/sbx/netfilter"
)

const value = "hunter2+/=topsecret"

func vaultOf(header string) (*Vault, netfilter.Secret) {
	s := netfilter.Secret{Name: "KEY", Hosts: []string{"api.test"}, Header: header, Placeholder: NewPlaceholder()}
	other := netfilter.Secret{Name: "OTHER", Hosts: []string{"other.test"}, Placeholder: NewPlaceholder()}
	return NewVault([]Binding{{s, value}, {other, "value-of-other"}}), s
}

func requestWith(target string, headers ...string) *Request {
	r := &Request{Request: &http.Request{Method: http.MethodGet, Header: http.Header{}}, Target: target}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestFill(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tc := range []struct {
		name, declared, header, value string
		plain                         bool
		want                          string
		err                           error
	}{
		{"declared", "x-api-key", "X-Api-Key", "PH", false, value, nil},
		{"within a value", "authorization", "Authorization", "Bearer PH", false, "Bearer " + value, nil},
		{"anywhere", "", "X-Whatever", "a PH b PH", false, "a " + value + " b " + value, nil},
		{"basic", "", "Authorization", basic("git:PH"), false, basic("git:" + value), nil},
		{"not declared there", "x-api-key", "Authorization", "Bearer PH", false, "", ErrMisplaced},
		{"basic not declared there", "x-api-key", "Authorization", basic("git:PH"), false, "", ErrMisplaced},
		{"not encrypted", "", "X-Api-Key", "PH", true, "", ErrMisplaced},
		{"other case", "", "X-Api-Key", "UPPER", false, "", ErrMisplaced},
		{"a foreign key", "x-api-key", "X-Api-Key", "sk-mine", false, "", ErrForeign},
		{"a foreign token", "x-api-key", "Authorization", "Bearer mine", false, "", ErrForeign},
		{"nothing of ours", "x-api-key", "Accept", "*/*", false, "*/*", nil},
		{"an old placeholder of nobody", "x-api-key", "Accept", placeholderPrefix + "ff", false, placeholderPrefix + "ff", nil},
	} {
		v, s := vaultOf(tc.declared)
		text := strings.ReplaceAll(tc.value, "PH", s.Placeholder)
		if strings.HasPrefix(tc.value, "Basic ") {
			text = basic("git:" + s.Placeholder)
		} else if tc.value == "UPPER" {
			text = strings.ToUpper(s.Placeholder)
		}
		r := requestWith("/", tc.header, text)
		_, err := v.Fill(r, []netfilter.Secret{s}, !tc.plain)
		if !errors.Is(err, tc.err) || err == nil && r.Header.Get(tc.header) != tc.want {
			t.Errorf("%s: %q, %v", tc.name, r.Header.Get(tc.header), err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds the value", tc.name)
		}
	}
	v, s := vaultOf("")
	var wrong *SecretError
	if _, err := v.Fill(requestWith("/", "X", v.bindings[1].Secret.Placeholder), []netfilter.Secret{s}, true); !errors.As(err, &wrong) || wrong.Name != "OTHER" {
		t.Errorf("another host's placeholder: %v", err)
	}
	if used, err := (*Vault)(nil).Fill(requestWith("/"), nil, true); err != nil || used != nil {
		t.Error("no vault fills")
	}
}

// Whatever a guest sends to a host that a secret is not bound to, the value does not leave.
func TestNoValueLeavesForAnotherHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, s := vaultOf(rapid.SampledFrom([]string{"", "x-api-key"}).Draw(t, "declared"))
		piece := rapid.SampledFrom([]string{s.Placeholder, strings.ToUpper(s.Placeholder), "Basic ", base64.StdEncoding.EncodeToString([]byte(s.Placeholder)),
			"Bearer ", " ", "a", s.Placeholder[:20], s.Placeholder[20:], "%73k-sbx"})
		header := rapid.SampledFrom([]string{"X-Api-Key", "Authorization", "Cookie", "X"}).Draw(t, "header")
		r := requestWith("/"+rapid.StringMatching(`[a-z?=]{0,5}`).Draw(t, "target"), header, strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, "pieces"), ""))
		_, err := v.Fill(r, nil, rapid.Bool().Draw(t, "encrypted"))
		if strings.Contains(fmt.Sprint(r.Header, r.Target, err), "hunter2") {
			t.Fatalf("%v %v", r.Header, err)
		}
	})
}

func TestScrub(t *testing.T) {
	v, s := vaultOf("")
	h := http.Header{
		"A": {"key is " + value}, "B": {base64.StdEncoding.EncodeToString([]byte("x" + value + "y"))}, "C": {"hunter2%2B%2F%3Dtopsecret"}, "D": {"plain"},
		"F": {"/?k=%68%75%6e%74er2%2b/%3dtopsecret"}, "X-Hunter2+/=topsecret": {"1"},
		"E": {"prefix/" + base64.RawURLEncoding.EncodeToString([]byte(value))},
	}
	if !v.Scrub(h, []netfilter.Secret{s}) {
		t.Error("nothing found")
	}
	text := fmt.Sprint(h)
	if strings.Contains(text, "%68") || strings.Contains(text, "X-Hunter2") {
		t.Errorf("a spelling is left in %s", text)
	}
	for _, form := range []string{
		"hunter2", base64.RawStdEncoding.EncodeToString([]byte("x" + value))[2:20], base64.RawURLEncoding.EncodeToString([]byte(value))[:20],
	} {
		if strings.Contains(text, form) {
			t.Errorf("%q is still in %s", form, text)
		}
	}
	if h.Get("D") != "plain" || v.Scrub(http.Header{"A": {"value-of-other"}}, []netfilter.Secret{s}) {
		t.Error("more than the host's own secrets was scrubbed")
	}
}

func TestAuthoritySigns(t *testing.T) {
	certPEM, keyPEM, err := NewAuthority("shop", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	leaf, err := a.Leaf("api.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "api.test", Roots: roots}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "x.api.test", Roots: roots}); err == nil {
		t.Error("it holds for another name")
	}
	if again, err := a.Leaf("api.test"); err != nil || again != leaf {
		t.Errorf("signed anew: %v", err)
	}
	a.now = func() time.Time { return time.Now().Add(leafLife * 3 / 4) }
	if later, err := a.Leaf("api.test"); err != nil || later == leaf || !later.Leaf.NotAfter.After(leaf.Leaf.NotAfter) {
		t.Errorf("not renewed: %v", err)
	}
	a.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	if now, err := a.Leaf("api.test"); err != nil || now.Leaf.NotBefore.After(a.now()) {
		t.Errorf("after the clock was set back: %v", err)
	}
	a.now = time.Now
	if _, err := LoadAuthority(certPEM, []byte("x")); err == nil {
		t.Error("a broken key is taken")
	}
	if config, err := a.Config("api.test"); err != nil || !config.SessionTicketsDisabled || config.MinVersion < tls.VersionTLS12 {
		t.Errorf("config: %v", err)
	}
	if _, otherKey, err := NewAuthority("other", time.Now()); err != nil {
		t.Fatal(err)
	} else if _, err := LoadAuthority(certPEM, otherKey); err == nil {
		t.Error("another's key is taken")
	}
}

// FuzzVault: whatever a guest sends and a server echoes, a value is not in what goes to another host, nor in the
// headers that come back.
func FuzzVault(f *testing.F) {
	f.Add("X-Api-Key", "PH", "/", "echo: V")
	f.Add("Authorization", "Basic UEg=", "/?k=PH", "%68unter2")
	f.Fuzz(func(t *testing.T, header, value, target, echo string) {
		v, s := vaultOf("")
		fill := func(text string) string { return strings.ReplaceAll(text, "PH", s.Placeholder) }
		r := requestWith(fill(target), fill(header), fill(value))
		_, err := v.Fill(r, nil, true)
		if strings.Contains(fmt.Sprint(r.Header, r.Target, err), "hunter2") && !strings.Contains(header+value+target, "hunter2") {
			t.Fatalf("%v %v", r.Header, err)
		}
		bound, s2 := vaultOf("x-api-key")
		fill = func(text string) string { return strings.ReplaceAll(text, "PH", s2.Placeholder) }
		r = requestWith(fill(target), fill(header), fill(value), "X-Api-Key", s2.Placeholder)
		if _, err := bound.Fill(r, []netfilter.Secret{s2}, true); err == nil && !strings.Contains(header+value+target, "hunter2") {
			r.Header.Del("X-Api-Key")
			if strings.Contains(fmt.Sprint(r.Header, r.Target), "hunter2") {
				t.Fatalf("put in elsewhere: %v %v", r.Target, r.Header)
			}
		}
		h := http.Header{"Echo": {strings.ReplaceAll(echo, "V", "hunter2+/=topsecret")}}
		v.Scrub(h, []netfilter.Secret{s})
		if strings.Contains(percentDecoded(h.Get("Echo")), "hunter2+/=topsecret") {
			t.Fatalf("%q comes back", h.Get("Echo"))
		}
	})
}
