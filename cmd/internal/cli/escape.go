package cli

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// printable returns s with everything that could move a terminal's cursor, change
// its state or reorder its text written as Go escapes: control characters, invalid
// UTF-8, and format characters such as the bidirectional overrides (CVE-2021-42574).
func printable(s string) string {
	if isPrintable(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			b.WriteString(`\x` + hex2(s[i]))
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += size
	}
	return b.String()
}

func isPrintable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

func hex2(c byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[c>>4], digits[c&15]})
}

// maxLogLine bounds a line of a log in memory; a longer one is cut into several.
const maxLogLine = 64 << 10

// copyPrintable copies lines from r to w, each escaped. Tabs and the carriage
// return that consoles put before a newline are kept out of the escaping.
func copyPrintable(w io.Writer, r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if _, writeErr := io.WriteString(w, printableLine(string(line))); writeErr != nil {
				return writeErr
			}
		}
		switch {
		case err == nil || errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

func printableLine(line string) string {
	body, newline := strings.CutSuffix(line, "\n")
	body = strings.TrimRight(body, "\r")
	parts := strings.Split(body, "\t")
	for i, part := range parts {
		parts[i] = printable(part)
	}
	body = strings.Join(parts, "\t")
	if newline {
		body += "\n"
	}
	return body
}

// escaped writes lines to a terminal that must not obey them. Each Write is of whole lines.
type escaped struct{ io.Writer }

func (e escaped) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := io.WriteString(e.Writer, printableLine(line)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// patchOut is where a patch goes: to a program as it is, to a terminal escaped, since the guest wrote it.
func (a *app) patchOut() io.Writer {
	if isTerminal(a.Out) {
		return escaped{a.Out}
	}
	return a.Out
}
