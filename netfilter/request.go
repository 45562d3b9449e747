package netfilter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of one rule's part about requests.
const (
	maxMethods = 16
	maxPaths   = 32
	maxPath    = 1024 // bytes of a pattern
)

// MethodWebSocket stands in [Request.Method] and in rules for a request to become a WebSocket, after which
// no request is read any more. A rule for GET does not cover it.
const MethodWebSocket = "WEBSOCKET"

// scope is the part of a rule about requests. The zero scope covers every request, and what is no request.
type scope struct {
	methods []string
	paths   [][]string // patterns by segments
}

func (s scope) narrow() bool { return len(s.methods) > 0 || len(s.paths) > 0 }

// covers tells whether a request falls under the scope. segments are those of a path that [segmentsOf] took.
func (s scope) covers(method string, segments []string) bool {
	if len(s.methods) > 0 && !containsFold(s.methods, method) {
		return false
	}
	if len(s.paths) == 0 {
		return true
	}
	for _, p := range s.paths {
		if matchSegments(p, segments) {
			return true
		}
	}
	return false
}

func containsFold(list []string, s string) bool {
	for _, x := range list {
		if strings.EqualFold(x, s) {
			return true
		}
	}
	return false
}

func compileScope(r Rule) (scope, error) {
	s := scope{methods: r.Methods}
	if len(r.Methods) > maxMethods || len(r.Paths) > maxPaths {
		return s, fmt.Errorf("%d methods and %d paths, more than %d and %d", len(r.Methods), len(r.Paths), maxMethods, maxPaths)
	}
	for _, m := range r.Methods {
		if !isToken(m) {
			return s, fmt.Errorf("method %q: must be a word such as GET or POST", cutText(m))
		}
	}
	for _, p := range r.Paths {
		segments, err := parsePath(p)
		if err != nil {
			return s, fmt.Errorf("path %q: %w", cutText(p), err)
		}
		s.paths = append(s.paths, segments)
	}
	return s, nil
}

func cutText(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// isToken holds a method to RFC 9110 section 5.6.2.
func isToken(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// parsePath reads a path pattern: "/v1/**", "/**/git-upload-pack", "/files/*.txt".
func parsePath(pattern string) ([]string, error) {
	switch {
	case !strings.HasPrefix(pattern, "/"):
		return nil, errors.New("must begin with a slash")
	case len(pattern) > maxPath:
		return nil, fmt.Errorf("%d bytes, more than %d", len(pattern), maxPath)
	case strings.ContainsAny(pattern, "?#"):
		return nil, errors.New("rules look at the path alone, without query and fragment")
	}
	deep := 0
	for segment := range strings.SplitSeq(pattern[1:], "/") {
		if segment == "**" {
			deep++
		} else if strings.Contains(segment, "**") {
			return nil, errors.New(`"**" stands for whole segments, such as /v1/**`)
		}
	}
	if deep > 2 {
		return nil, errors.New(`"**" more than twice`)
	}
	segments, ok := segmentsOf(pattern)
	if !ok {
		return nil, errors.New("holds what no request may: an empty or dotted segment, a backslash, an encoded slash")
	}
	return segments, nil
}

// segmentsOf splits a request's path, with what need not be percent-encoded decoded. It refuses what
// servers read in different ways: a rule that was held to one reading would not hold in another.
func segmentsOf(path string) ([]string, bool) {
	if !strings.HasPrefix(path, "/") || len(path) > 64<<10 {
		return nil, false
	}
	plain, ok := decodePath(path)
	if !ok {
		return nil, false
	}
	segments := strings.Split(plain[1:], "/")
	for i, s := range segments {
		s, _, _ := strings.Cut(s, "%3B") // a parameter, to a server that decodes first
		if s == "." || s == ".." || s == "" && i != len(segments)-1 {
			return nil, false
		}
	}
	return segments, true
}

// decodePath undoes the encoding of unreserved characters (RFC 3986 section 6.2.2.2); all others stay
// encoded, with capital digits. False for an encoded slash, backslash, dot, percent sign or control character.
func decodePath(path string) (string, bool) {
	if strings.IndexByte(path, '%') < 0 {
		return path, !strings.ContainsFunc(path, refusedInPath)
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if refusedInPath(rune(c)) {
			return "", false
		}
		if c != '%' {
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(path) {
			return "", false
		}
		hi, lo := unhex(path[i+1]), unhex(path[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		i += 2
		c = byte(hi<<4 | lo)
		switch {
		case c < 0x20 || c == 0x7f || strings.IndexByte(`/\.%`, c) >= 0:
			return "", false
		case c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '~':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), true
}

// refusedInPath finds what no path may hold unencoded (RFC 3986 section 3.3), and what begins a parameter:
// some servers read "/v1/..;/admin" as "/admin".
func refusedInPath(c rune) bool {
	return c < 0x21 || c >= 0x7f || c == '\\' || c == ';' || c == '?' || c == '#'
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// matchSegments: "**" is any number of segments, "*" any text within one. What stands between two "**" is taken
// where it fits first, which leaves the most for the rest; a guest chooses the path, and trying all places would
// cost the square of its length.
func matchSegments(pattern, segments []string) bool {
	part, rest, deep := cutDeep(pattern)
	if !deep {
		return len(part) == len(segments) && matchEach(part, segments)
	}
	if !matchEach(part, segments) {
		return false
	}
	segments = segments[len(part):]
	for {
		if part, rest, deep = cutDeep(rest); !deep {
			last := len(segments) - len(part)
			return last >= 0 && matchEach(part, segments[last:])
		}
		for !matchEach(part, segments) {
			if len(segments) == 0 {
				return false
			}
			segments = segments[1:]
		}
		segments = segments[len(part):]
	}
}

// cutDeep splits a pattern at its first "**".
func cutDeep(pattern []string) (before, after []string, found bool) {
	if i := slices.Index(pattern, "**"); i >= 0 {
		return pattern[:i], pattern[i+1:], true
	}
	return pattern, nil, false
}

// matchEach matches a pattern without "**" with the first segments.
func matchEach(pattern, segments []string) bool {
	for i, p := range pattern {
		if i >= len(segments) || !matchText(p, segments[i]) {
			return false
		}
	}
	return true
}

// matchText matches stars without backtracking into earlier ones, in time linear in both for each star.
func matchText(pattern, text string) bool {
	first, rest, stars := strings.Cut(pattern, "*")
	if !stars {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(text, part)
		}
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text, rest = after, more
	}
}
