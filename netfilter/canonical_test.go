package netfilter

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestCanonical is rows D7, D23, D24, N2, N3, N9, N11–N13, N15 of the case list.
func TestCanonical(t *testing.T) {
	long := strings.Repeat("a", 63)
	name253 := strings.Join([]string{long, long, long, strings.Repeat("b", 61)}, ".")
	for in, want := range map[string]string{
		"example.com":         "example.com",
		"ExAmPlE.CoM":         "example.com",
		"example.com.":        "example.com",
		"xn--e1afmkfd.com":    "xn--e1afmkfd.com",
		"XN--E1AFMKFD.com":    "xn--e1afmkfd.com",
		"a-b.c--d.example":    "a-b.c--d.example",
		"10.0.0.1.nip.io":     "10.0.0.1.nip.io",
		"localhost":           "localhost",
		long + ".example":     long + ".example",
		name253:               name253,
		"1password.com":       "1password.com",
		"0x7f.example":        "0x7f.example",
		"xn--0.example.x1y2z": "xn--0.example.x1y2z",
	} {
		if got, err := Canonical(in); err != nil || got != want {
			t.Errorf("Canonical(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ".", "..", "example.com..", ".example.com", "a..b", "go od", "good@evil", "a/b", `a\b`, `example\.com`, "a#b", "a%2eb",
		"a_b.example", "-a.example", "a-.example", "a.example-", "[example.com]", "[::1]", "::1", "fe80::1%eth0",
		"1.2.3.4", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "1.2.3.4.", "a.0x", "example.com:443",
		"example。com", "example．com", "example｡com", "ｅxample.com", "exаmple.com", "ﬁ.example", "ß.example", "a\u200db.example",
		"a\x00b", "a\nb", "a\xffb", long + "a.example", name253 + "b", "*.example.com", "\u212aelvin.example",
	} {
		if got, err := Canonical(in); err == nil {
			t.Errorf("Canonical(%q) = %q, want an error", in, got)
		}
	}
}

func TestCanonicalIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkCanonical(t, rapid.StringMatching(`[a-zA-Z0-9.x-]{0,80}\.?`).Draw(t, "name"))
	})
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"example.com.", "EXAMPLE.com", "0x7f.1", "exаmple.com", "a..b", "-a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) { checkCanonical(t, in) })
}

type fataler interface{ Fatalf(string, ...any) }

func checkCanonical(t fataler, in string) {
	got, err := Canonical(in)
	if err != nil {
		return
	}
	again, err := Canonical(got)
	if err != nil || again != got {
		t.Fatalf("Canonical(%q) = %q, and of that %q, %v", in, got, again, err)
	}
	if len(got) > maxName || strings.ToLower(got) != got || strings.HasSuffix(got, ".") || strings.ContainsAny(got, " :/\\@_\x00") {
		t.Fatalf("Canonical(%q) = %q", in, got)
	}
	if upper, err := Canonical(strings.ToUpper(got) + "."); err != nil || upper != got {
		t.Fatalf("upper case and a dot change %q to %q, %v", got, upper, err)
	}
}

func TestDisplayShowsBothForms(t *testing.T) {
	for in, want := range map[string]string{
		"example.com":             "example.com",
		"xn--exmple-4nf.com":      "xn--exmple-4nf.com (exаmple.com)",
		"xn--zzzzzzzz99999.test1": "xn--zzzzzzzz99999.test1",
	} {
		if got := Display(in); got != want {
			t.Errorf("Display(%q) = %q, want %q", in, got, want)
		}
	}
}
