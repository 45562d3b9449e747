package configs

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a configuration file. The deepest true one nests five levels; the
// parser recurses, and a Go stack overflow cannot be recovered.
const (
	maxFile   = 1 << 20
	maxTokens = 20_000
	maxDepth  = 32
)

// parse gives the root node of the one document in src, nil for an empty file.
// ok is false after a problem.
func parse(rep *report, file string, src []byte) (root ast.Node, ok bool) {
	if !checkBytes(rep, file, src) {
		return nil, false
	}
	defer func() {
		// The library has panicked on broken input before. A file must not end sbx.
		if p := recover(); p != nil {
			rep.add(Position{File: file, Line: 1, Column: 1}, "is no valid YAML")
			root, ok = nil, false
		}
	}()
	tokens := lexer.Tokenize(string(src))
	if !checkTokens(rep, file, tokens) {
		return nil, false
	}
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		reportSyntax(rep, file, err)
		return nil, false
	}
	if len(parsed.Docs) > 1 {
		rep.add(at(file, parsed.Docs[1].Start), "a second document: the file must hold one")
		return nil, false
	}
	if len(parsed.Docs) == 0 {
		return nil, true
	}
	return parsed.Docs[0].Body, true
}

// checkBytes refuses what is no text of ours before any parser sees it.
func checkBytes(rep *report, file string, src []byte) bool {
	switch {
	case len(src) > maxFile:
		rep.add(Position{File: file}, "is larger than %d bytes", maxFile)
	case bytes.HasPrefix(src, []byte("\xef\xbb\xbf")):
		rep.add(Position{File: file, Line: 1, Column: 1}, "begins with a byte order mark: save it as UTF-8 without one")
	case !utf8.Valid(src):
		rep.add(Position{File: file, Line: 1 + bytes.Count(src[:invalidAt(src)], []byte("\n")), Column: 1}, "is not UTF-8")
	default:
		return checkLines(rep, file, src)
	}
	return false
}

func invalidAt(src []byte) int {
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(src)
}

// checkLines refuses tabs in the indentation and control characters anywhere,
// and bounds the depth of block nesting by the width of the indentation.
func checkLines(rep *report, file string, src []byte) bool {
	good := true
	for i, line := range bytes.Split(src, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		indent := len(line) - len(bytes.TrimLeft(line, " "))
		switch tab := bytes.IndexByte(line, '\t'); {
		case tab >= 0 && len(bytes.TrimLeft(line[:tab], " ")) == 0:
			rep.add(Position{file, i + 1, tab + 1}, "a tab in the indentation: YAML indents by spaces")
			good = false
		case bytes.ContainsFunc(line, isControl):
			rep.add(Position{file, i + 1, 1 + bytes.IndexFunc(line, isControl)}, "a control character")
			good = false
		case indent > 4*maxDepth && len(bytes.TrimSpace(line)) > 0:
			rep.add(Position{file, i + 1, 1}, "is indented too deeply")
			return false
		}
		if len(rep.problems) > maxProblems {
			return false
		}
	}
	return good
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0xfeff }

// checkTokens refuses the parts of YAML that no configuration needs and that
// make a small file large (anchors and aliases) or its meaning unclear.
func checkTokens(rep *report, file string, tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		rep.add(Position{File: file}, "has more than %d parts", maxTokens)
		return false
	}
	good, flow, dashes, line := true, 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
		}
		if text := refused(t); text != "" {
			rep.add(at(file, t), "%s", text)
			good = false
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		}
		if flow > maxDepth || dashes > maxDepth {
			rep.add(at(file, t), "is nested too deeply")
			return false
		}
		if len(rep.problems) > maxProblems {
			return false
		}
	}
	return good
}

func refused(t *token.Token) string {
	switch t.Type {
	case token.AnchorType:
		return "an anchor (&): write the value out"
	case token.AliasType:
		return "an alias (*): write the value out, or quote a text that begins with a star"
	case token.MergeKeyType:
		return "a merge key (<<): write the keys out"
	case token.TagType:
		return "a tag (!): write a plain value, or quote a text that begins with an exclamation mark"
	case token.MappingKeyType:
		return "a complex key (?): write a plain key"
	case token.DirectiveType:
		return "a directive (%%): remove it"
	case token.InvalidType:
		return "is no valid YAML: " + t.Error
	}
	return ""
}

func reportSyntax(rep *report, file string, err error) {
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) && syntax.Token != nil {
		rep.add(at(file, syntax.Token), "is no valid YAML: %s", syntax.Message)
		return
	}
	rep.add(Position{File: file, Line: 1, Column: 1}, "%s", fmt.Sprintf("is no valid YAML: %v", err))
}

func at(file string, t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{File: file, Line: 1, Column: 1}
	}
	return Position{File: file, Line: t.Position.Line, Column: t.Position.Column}
}
