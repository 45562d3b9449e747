package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"plain text, ümläut, 日本": "plain text, ümläut, 日本",
		"\x1b[31mred\x07":        `\x1b[31mred\a`,
		"a\nb\tc":                `a\nb\tc`,
		"\xff\xfe":               `\xff\xfe`,
		"\u009b31m":              `\u009b31m`, // CSI as one character of C1
		"abc\u202egpj.exe":       `abc\u202egpj.exe`,
		"zero\u200bwidth":        `zero\u200bwidth`,
		"\x7f":                   `\x7f`,
		"\ufffd":                 "\ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\x07\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) {
			t.Fatalf("printable(%q) = %q is no UTF-8", s, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }); i >= 0 {
			t.Fatalf("printable(%q) = %q lets %q through", s, got, got[i:])
		}
		if printable(got) != got {
			t.Fatalf("printable(%q) is not printable itself: %q", s, got)
		}
	})
}

func TestCopyPrintable(t *testing.T) {
	in := "boot\tok\r\n\x1b[2Jgone\nlast \x00"
	var out bytes.Buffer
	if err := copyPrintable(&out, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if want := "boot\tok\n\\x1b[2Jgone\nlast \\x00"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// A guest may print one line without end: it is passed on in pieces, not held.
func TestCopyPrintableLongLine(t *testing.T) {
	in := strings.Repeat("x", 3*maxLogLine+5)
	var out bytes.Buffer
	if err := copyPrintable(&out, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if out.String() != in {
		t.Errorf("%d of %d bytes", out.Len(), len(in))
	}
}

func TestEscapedPatch(t *testing.T) {
	var out strings.Builder
	text := "+a\x1b[2Jb\tc\n-\u202ex\n"
	if n, err := io.WriteString(escaped{&out}, text); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
	if want := "+a\\x1b[2Jb\tc\n-\\u202ex\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
