package configs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/sbx-vm/sbx/netfilter"
)

// AppendAllow gives the text of a project file with more rules, in their short form, at the end of
// network.allow. Everything else stays as it is, byte by byte: comments, order, line ends. Rules that are
// there already are left out. The result was read again: it says what file said and the new rules, or
// there is an error and no result.
func AppendAllow(file []byte, rules []string) ([]byte, error) {
	rep := newReport()
	var old File
	decode(rep, FileName, file, &old)
	if err := rep.err(); err != nil {
		return nil, err
	}
	added := newRules(old, rules)
	if len(added) == 0 {
		return bytes.Clone(file), nil
	}
	for _, r := range added {
		if _, _, err := netfilter.Compile(netfilter.Spec{Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: r.Host}}}); err != nil {
			return nil, err
		}
	}
	// The library counts lines wrongly where comments end in CR LF.
	plain, crlf := bytes.ReplaceAll(file, []byte("\r\n"), []byte("\n")), false
	if n := bytes.Count(file, []byte("\r\n")); n > 0 && n == bytes.Count(file, []byte("\n")) {
		crlf = true
	} else {
		plain = file
	}
	root, _ := parse(rep, FileName, plain)
	out, err := splice{src: plain, rules: added}.root(root)
	if err != nil {
		return nil, err
	}
	if crlf {
		out = bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
	}
	old.Network.Allow = append(old.Network.Allow, added...)
	if err := sameFile(out, old); err != nil {
		return nil, err
	}
	return out, nil
}

func newRules(old File, rules []string) []Rule {
	var added []Rule
	for _, text := range rules {
		same := func(r Rule) bool { return r.String() == netfilter.CanonicalPattern(text) }
		if !slices.ContainsFunc(old.Network.Allow, same) && !slices.ContainsFunc(added, same) {
			added = append(added, Rule{Host: text})
		}
	}
	return added
}

// sameFile reads what was made. The JSON form holds all but the positions.
func sameFile(out []byte, want File) error {
	rep := newReport()
	var got File
	decode(rep, FileName, out, &got)
	if rep.err() != nil {
		return errByHand()
	}
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(want)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		return errByHand()
	}
	return nil
}

func errByHand() error {
	return errors.New("network.allow is written in a form that cannot be added to: add the rules by hand")
}

// splice puts rules into the text. It may guess: what it makes is read again.
type splice struct {
	src   []byte
	rules []Rule
}

// flow is the rules as entries of a list in brackets.
func (s splice) flow() string {
	quoted := make([]string, len(s.rules))
	for i, r := range s.rules {
		quoted[i] = strconv.Quote(r.Host)
	}
	return strings.Join(quoted, ", ")
}

// block is the rules as lines of a list, indented by n.
func (s splice) block(n int) string {
	var b strings.Builder
	for _, r := range s.rules {
		fmt.Fprintf(&b, "%s- %s\n", strings.Repeat(" ", n), strconv.Quote(r.Host))
	}
	return b.String()
}

func (s splice) root(root ast.Node) ([]byte, error) {
	if _, null := root.(*ast.NullNode); root == nil || null {
		return s.atEnd("network:\n  allow:\n" + s.block(4)), nil
	}
	key, network := entryOf(root, "network")
	m, isMapping := root.(*ast.MappingNode)
	switch {
	case key != nil:
		return s.network(key, network)
	case isMapping && m.IsFlowStyle:
		return s.intoFlowMap(m, "network: {allow: ["+s.flow()+"]}")
	}
	in := max(0, firstColumn(root)-1)
	pad := strings.Repeat(" ", in)
	return s.atEnd(pad + "network:\n" + pad + "  allow:\n" + s.block(in+4)), nil
}

func (s splice) network(key, n ast.Node) ([]byte, error) {
	in := column(key) - 1
	if isNull(n) {
		return s.afterLine(line(key), strings.Repeat(" ", in+2)+"allow:\n"+s.block(in+4)), nil
	}
	allowKey, allow := entryOf(n, "allow")
	m, isMapping := n.(*ast.MappingNode)
	switch {
	case allowKey == nil && isMapping && m.IsFlowStyle:
		return s.intoFlowMap(m, "allow: ["+s.flow()+"]")
	case allowKey == nil:
		in = firstColumn(n) - 1
		return s.afterLine(line(key), strings.Repeat(" ", in)+"allow:\n"+s.block(in+2)), nil
	case isNull(allow):
		return s.afterLine(line(allowKey), s.block(column(allowKey)+1)), nil
	}
	seq, ok := allow.(*ast.SequenceNode)
	switch {
	case !ok:
		return nil, errByHand()
	case seq.IsFlowStyle:
		return s.intoFlowList(seq)
	case len(seq.Values) == 0:
		return nil, errByHand()
	}
	return s.afterLine(lastLine(seq.Values[len(seq.Values)-1]), s.block(column(seq)-1)), nil
}

func (s splice) intoFlowMap(m *ast.MappingNode, entry string) ([]byte, error) {
	at, ok := s.offset(m.Start, '{')
	if !ok {
		return nil, errByHand()
	}
	if len(m.Values) > 0 {
		entry += ", "
	}
	return s.insert(at+1, entry), nil
}

func (s splice) intoFlowList(seq *ast.SequenceNode) ([]byte, error) {
	at, ok := s.offset(seq.End, ']')
	if !ok {
		return nil, errByHand()
	}
	text := s.flow()
	switch before := seq.End.Prev; {
	case len(seq.Values) == 0:
	case before != nil && before.Type == token.CollectEntryType:
		text = " " + text
	default:
		text = ", " + text
	}
	return s.insert(at, text), nil
}

func (s splice) insert(at int, text string) []byte {
	return slices.Concat(s.src[:at], []byte(text), s.src[at:])
}

func (s splice) atEnd(text string) []byte {
	if len(s.src) > 0 && s.src[len(s.src)-1] != '\n' {
		text = "\n" + text
	}
	return s.insert(len(s.src), text)
}

// afterLine inserts whole lines after line n, which counts from 1.
func (s splice) afterLine(n int, text string) []byte {
	at := 0
	for range n {
		i := bytes.IndexByte(s.src[at:], '\n')
		if i < 0 {
			return s.atEnd(text)
		}
		at += i + 1
	}
	return s.insert(at, text)
}

// offset finds a token's first byte, which must be c.
func (s splice) offset(t *token.Token, c byte) (int, bool) {
	if t == nil || t.Position == nil {
		return 0, false
	}
	at := 0
	for range t.Position.Line - 1 {
		i := bytes.IndexByte(s.src[at:], '\n')
		if i < 0 {
			return 0, false
		}
		at += i + 1
	}
	for range t.Position.Column - 1 {
		_, n := utf8.DecodeRune(s.src[at:])
		at += n
	}
	return at, at < len(s.src) && s.src[at] == c
}

// entryOf gives the key and value of an entry of a map.
func entryOf(n ast.Node, name string) (key, value ast.Node) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, nil
	}
	for it := m.MapRange(); it.Next(); {
		if text, ok := keyText(it.Key()); ok && text == name {
			return it.Key(), it.Value()
		}
	}
	return nil, nil
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return null
}

func line(n ast.Node) int   { return n.GetToken().Position.Line }
func column(n ast.Node) int { return n.GetToken().Position.Column }

// firstColumn is where the keys of a block map stand.
func firstColumn(n ast.Node) int {
	if m, ok := n.(ast.MapNode); ok {
		if it := m.MapRange(); it.Next() {
			return column(it.Key())
		}
	}
	return 1
}

// lastLine is the last line with a token of the node.
func lastLine(n ast.Node) int {
	v := &lastVisitor{}
	ast.Walk(v, n)
	return v.line
}

type lastVisitor struct{ line int }

// Visit looks at a node; the closing brackets are no nodes of their own.
func (v *lastVisitor) Visit(n ast.Node) ast.Visitor {
	tokens := []*token.Token{n.GetToken()}
	switch n := n.(type) {
	case *ast.MappingNode:
		tokens = append(tokens, n.End)
	case *ast.SequenceNode:
		tokens = append(tokens, n.End)
	case *ast.CommentGroupNode, *ast.CommentNode:
		return nil // one after the entry belongs to what follows
	}
	for _, t := range tokens {
		if t != nil && t.Position != nil {
			v.line = max(v.line, t.Position.Line)
		}
	}
	return v
}
