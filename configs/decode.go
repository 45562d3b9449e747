package configs

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// maxList bounds a list or map of the file.
const maxList = 1024

// texter is a value that is written as text, such as a size.
type texter interface{ UnmarshalText([]byte) error }

// placed is a value that wants to know where it stands.
type placed interface{ setPosition(Position) }

// unitless is a text that may be written as the number 0: nothing has no unit.
type unitless interface{ takesZero() }

// scalar is a leaf outside lists, as text: what the layers are made of.
type scalar struct {
	text string
	at   Position
}

// decoder walks a file into a struct whose fields carry yaml tags. It goes on
// after a fault, so that one run reports them all.
type decoder struct {
	rep     *report
	file    string
	scalars map[string]scalar // by dotted key
}

// decode fills out, a pointer to a struct, from a file. Faults go to the report.
func decode(rep *report, file string, src []byte, out any) map[string]scalar {
	rep.sources[file] = src
	d := &decoder{rep: rep, file: file, scalars: map[string]scalar{}}
	root, ok := parse(rep, file, src)
	if ok && root != nil {
		d.value(root, reflect.ValueOf(out).Elem(), "")
	}
	return d.scalars
}

func (d *decoder) value(n ast.Node, v reflect.Value, key string) {
	where := at(d.file, n.GetToken())
	if p, ok := v.Addr().Interface().(placed); ok {
		p.setPosition(where)
	}
	if _, null := n.(*ast.NullNode); null {
		if v.Kind() != reflect.Struct && v.Kind() != reflect.Slice && v.Kind() != reflect.Map {
			d.rep.add(where, "%s has no value", name(key))
		}
		return
	}
	if t, ok := v.Addr().Interface().(texter); ok && !isMap(n) {
		d.text(n, t, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, key)
	case reflect.Slice:
		d.list(n, v, key)
	case reflect.Map:
		d.table(n, v, key)
	case reflect.String:
		if s, ok := d.stringOf(n, key); ok {
			v.SetString(s)
			d.scalars[key] = scalar{s, where}
		}
	case reflect.Int:
		d.integer(n, v, key)
	case reflect.Bool:
		d.boolean(n, v, key)
	}
}

func isMap(n ast.Node) bool {
	_, ok := n.(ast.MapNode)
	return ok
}

func name(key string) string {
	if key == "" {
		return "the file"
	}
	return strconv.Quote(key)
}

func (d *decoder) wrong(n ast.Node, key, want string) {
	d.rep.add(at(d.file, n.GetToken()), "%s must be %s, not %s", name(key), want, describe(n))
}

// describe names what a node is, for people.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a map"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "the boolean " + n.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode:
		return "the number " + n.GetToken().Value
	case *ast.StringNode:
		return "the text " + strconv.Quote(cut(n.Value))
	case *ast.LiteralNode:
		return "a text"
	}
	return "this"
}

func cut(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

func (d *decoder) text(n ast.Node, t texter, key string) {
	s, ok := "0", isZero(n, t)
	if !ok {
		s, ok = d.stringOf(n, key)
	}
	if !ok {
		return
	}
	where := at(d.file, n.GetToken())
	d.scalars[key] = scalar{s, where}
	if err := t.UnmarshalText([]byte(s)); err != nil {
		d.rep.add(where, "%s: %v", name(key), err)
	}
}

func isZero(n ast.Node, t texter) bool {
	_, number := n.(*ast.IntegerNode)
	_, may := t.(unitless)
	return number && may && n.GetToken().Value == "0"
}

// stringOf takes text alone: an unquoted 3000, true or 1e3 is another type in
// YAML, and guessing which text was meant is how 010 becomes 8.
func (d *decoder) stringOf(n ast.Node, key string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		d.rep.add(at(d.file, n.GetToken()), "%s must be text: write %q in quotes", name(key), n.GetToken().Value)
		return "", false
	}
	d.wrong(n, key, "text")
	return "", false
}

// integer takes plain decimal: 0o17, 1_000 and 0x10 are numbers to YAML, but no
// two readers agree on all of them.
func (d *decoder) integer(n ast.Node, v reflect.Value, key string) {
	in, ok := n.(*ast.IntegerNode)
	if !ok {
		d.wrong(n, key, "a number")
		return
	}
	text := in.GetToken().Value
	i, err := strconv.ParseInt(text, 10, 32)
	if err != nil || strconv.FormatInt(i, 10) != text {
		d.rep.add(at(d.file, n.GetToken()), "%s must be a plain decimal number, not %s", name(key), text)
		return
	}
	v.SetInt(i)
	d.scalars[key] = scalar{text, at(d.file, n.GetToken())}
}

func (d *decoder) boolean(n ast.Node, v reflect.Value, key string) {
	b, ok := n.(*ast.BoolNode)
	if text := n.GetToken().Value; !ok || text != "true" && text != "false" {
		d.wrong(n, key, "true or false")
		return
	}
	v.SetBool(b.Value)
	d.scalars[key] = scalar{strconv.FormatBool(b.Value), at(d.file, n.GetToken())}
}

func (d *decoder) list(n ast.Node, v reflect.Value, key string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.wrong(n, key, "a list")
		return
	}
	if len(seq.Values) > maxList {
		d.rep.add(at(d.file, n.GetToken()), "%s has %d entries, more than %d", name(key), len(seq.Values), maxList)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
}

// table takes a map whose keys the user chooses, such as env.
func (d *decoder) table(n ast.Node, v reflect.Value, key string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(n, key, func(k ast.Node, text string, item ast.Node) {
		if v.Len() >= maxList {
			return
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(item, e, join(key, text))
		v.SetMapIndex(reflect.ValueOf(text), e)
	})
}

func (d *decoder) structure(n ast.Node, v reflect.Value, key string) {
	fields := fieldsOf(v.Type())
	d.entries(n, key, func(k ast.Node, text string, item ast.Node) {
		i, known := fields[text]
		where := at(d.file, k.GetToken())
		if !known {
			d.rep.add(where, "unknown key %q%s", cut(join(key, text)), suggest(text, names(fields)))
			return
		}
		d.value(item, v.Field(i), join(key, text))
	})
}

// entries calls f for each entry of a map, once per key.
func (d *decoder) entries(n ast.Node, key string, f func(k ast.Node, text string, item ast.Node)) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.wrong(n, key, "a map")
		return
	}
	seen := map[string]Position{}
	for it := m.MapRange(); it.Next(); {
		k := it.Key()
		text, ok := keyText(k)
		if !ok {
			d.rep.add(at(d.file, k.GetToken()), "a key must be plain text")
			continue
		}
		if first, again := seen[text]; again {
			d.rep.add(at(d.file, k.GetToken()), "duplicate key %q, first on line %d", cut(join(key, text)), first.Line)
			continue
		}
		seen[text] = at(d.file, k.GetToken())
		f(k, text, it.Value())
	}
}

// keyText gives a key's text. A bare "no" or "1" as the name of a variable is
// text to YAML 1.2 or close enough; it is taken as it stands in the file.
func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.BoolNode, *ast.NullNode, *ast.FloatNode:
		return k.GetToken().Value, true
	}
	return "", false
}

func join(key, text string) string {
	if key == "" {
		return text
	}
	return key + "." + text
}

// fieldsOf gives the fields of a struct by their names in the file.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); tag != "" && tag != "-" {
			fields[tag] = i
		}
	}
	return fields
}

func names(fields map[string]int) []string {
	all := make([]string, 0, len(fields))
	for n := range fields {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}
