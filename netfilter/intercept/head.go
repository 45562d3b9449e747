package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxHead is the most bytes of a request line and its headers together; the
	// usual servers stop at 8 to 16 KiB.
	MaxHead = 32 << 10
	// maxHeaders is how many header lines a request has at most.
	maxHeaders = 128
)

// checkHead holds a request head, the bytes up to and with the empty line, to the
// form that every HTTP/1.1 parser reads alike. net/http is more forgiving.
func checkHead(head []byte) error {
	if err := checkBytes(head); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	if err := checkRequestLine(lines[0]); err != nil {
		return err
	}
	if len(lines)-1 > maxHeaders {
		return ErrTooLarge
	}
	count := make(map[string]int)
	for _, line := range lines[1:] {
		name, value, err := checkHeader(line)
		if err != nil {
			return err
		}
		count[name]++
		if err := checkFraming(name, value); err != nil {
			return err
		}
	}
	return checkCounts(count)
}

// checkBytes refuses control bytes and every line end but CRLF.
func checkBytes(head []byte) error {
	for i, c := range head {
		switch {
		case c == '\r':
			if i+1 == len(head) || head[i+1] != '\n' {
				return errors.New("a carriage return stands alone")
			}
		case c == '\n':
			if i == 0 || head[i-1] != '\r' {
				return errors.New("a line ends without carriage return")
			}
		case c < ' ' && c != '\t', c == 0x7f:
			return fmt.Errorf("control byte %#02x", c)
		}
	}
	return nil
}

func checkRequestLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return errors.New("the request line has not three parts")
	}
	method, target, version := parts[0], parts[1], parts[2]
	switch {
	case !token(method):
		return fmt.Errorf("method %q", method)
	case strings.EqualFold(method, "CONNECT"):
		return ErrConnect
	case strings.EqualFold(method, "TRACE") || strings.EqualFold(method, "TRACK"):
		return ErrTrace
	case version != "HTTP/1.1":
		return fmt.Errorf("version %q, only HTTP/1.1 is served", version)
	case target == "" || strings.ContainsAny(target, "\\#\t") || !ascii(target):
		return fmt.Errorf("target %q", target)
	}
	return nil
}

// checkHeader splits one header line. No space before the colon, no folding.
func checkHeader(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !token(name) {
		return "", "", fmt.Errorf("header line %.60q", line)
	}
	return lowerASCII(name), strings.Trim(value, " \t"), nil
}

// checkFraming holds the two headers that say where a body ends to one form each.
func checkFraming(name, value string) error {
	switch name {
	case "content-length":
		if value == "" || len(value) > 18 || strings.Trim(value, "0123456789") != "" {
			return fmt.Errorf("content-length %.60q", value)
		}
	case "transfer-encoding":
		if lowerASCII(value) != "chunked" {
			return fmt.Errorf("transfer-encoding %.60q, only chunked is served", value)
		}
	}
	return nil
}

func checkCounts(count map[string]int) error {
	switch {
	case count["host"] != 1:
		return fmt.Errorf("%d Host headers, one is needed", count["host"])
	case count["content-length"]+count["transfer-encoding"] > 1:
		return errors.New("more than one header says how long the body is")
	}
	return nil
}

// token tells whether s is a token of RFC 9110 section 5.6.2.
func token(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || bytes.IndexByte([]byte(`"(),/:;<=>?@[\]{}`), c) >= 0 {
			return false
		}
	}
	return s != ""
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e }) < 0
}
