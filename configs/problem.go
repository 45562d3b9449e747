package configs

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sbx-vm/sbx/netfilter"
)

// maxProblems bounds the report about one hostile file.
const maxProblems = 50

// Position is where something stands. Line and Column count from 1; without a
// file they are 0, and File then names a flag or a variable.
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

func (p Position) origin(source string) netfilter.Origin {
	return netfilter.Origin{Source: source, File: p.File, Line: p.Line, Column: p.Column}
}

// Problem is one fault of the configuration.
type Problem struct {
	Position
	Text    string // what is wrong, and what would be right
	Excerpt string // the line with a mark under the place, safe to print; empty without a file
}

func (p Problem) Error() string {
	text := p.Text
	if at := p.String(); at != "" {
		text = printable(at) + ": " + text
	}
	if p.Excerpt != "" {
		text += "\n" + p.Excerpt
	}
	return text
}

// Problems is all that is wrong, in the order of the files. It is the error that
// [Load] gives for what a user can mend.
type Problems []Problem

func (ps Problems) Error() string {
	texts := make([]string, 0, len(ps))
	for i, p := range ps {
		if i == maxProblems {
			texts = append(texts, fmt.Sprintf("and %d more", len(ps)-maxProblems))
			break
		}
		texts = append(texts, p.Error())
	}
	return strings.Join(texts, "\n")
}

// report collects problems and knows the sources, for the excerpts.
type report struct {
	problems Problems
	sources  map[string][]byte
}

func newReport() *report { return &report{sources: map[string][]byte{}} }

func (r *report) add(at Position, format string, args ...any) {
	r.problems = append(r.problems, Problem{
		Position: at, Text: withoutUsers(printable(fmt.Sprintf(format, args...))), Excerpt: excerpt(r.sources[at.File], at),
	})
}

// err gives the problems in order, nil if there is none.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		if a.File != b.File {
			return 0
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return r.problems
}

// excerpt shows a line and marks a column. Long lines are cut around the place.
func excerpt(src []byte, at Position) string {
	const before, after = 60, 100
	line, ok := lineOf(src, at.Line)
	if !ok {
		return ""
	}
	runes := []rune(withoutUsers(strings.ReplaceAll(string(line), "\t", " ")))
	col := min(max(at.Column-1, 0), len(runes))
	from, to := max(0, col-before), min(len(runes), col+after)
	text := make([]rune, 0, to-from)
	for _, c := range runes[from:to] {
		if !unicode.IsPrint(c) {
			c = '?' // one column wide, so that the mark stays in place
		}
		text = append(text, c)
	}
	number := fmt.Sprintf("%5d", at.Line)
	return fmt.Sprintf("%s | %s\n%s | %s^", number, string(text), strings.Repeat(" ", len(number)), strings.Repeat(" ", col-from))
}

// userOfURL is what can be user and password in a URL of a text. A password that should have been escaped may have
// any character in it, so it ends with the last @ of the line.
var userOfURL = regexp.MustCompile(`://[^\n]*@`)

// withoutUsers hides them, one sign for each, so that what follows stays in its column.
func withoutUsers(text string) string {
	return userOfURL.ReplaceAllStringFunc(text, func(found string) string {
		user := strings.TrimSuffix(strings.TrimPrefix(found, "://"), "@")
		return "://" + strings.Repeat("*", utf8.RuneCountInString(user)) + "@"
	})
}

func lineOf(src []byte, n int) ([]byte, bool) {
	if n < 1 || src == nil {
		return nil, false
	}
	for i := 1; ; i++ {
		line, rest, more := bytes.Cut(src, []byte("\n"))
		if i == n {
			return bytes.TrimSuffix(line, []byte("\r")), true
		}
		if !more {
			return nil, false
		}
		src = rest
	}
}

// shown quotes a text that is not all printable.
func shown(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

// printable replaces what a terminal might obey. Texts quote values of the file.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
