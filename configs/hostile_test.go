package configs

import (
	"strings"
	"testing"
	"time"
)

// TestHostileFilesCostLittle: a large file is read or refused in
// bounded time, whatever it is made of.
func TestHostileFilesCostLittle(t *testing.T) {
	fill := func(head, s string) string { return head + strings.Repeat(s, (maxFile/8-len(head))/len(s)) }
	for name, text := range map[string]string{
		"one word":     fill("name: ", "a"),
		"list":         fill("", "- a\n"),
		"flow list":    fill("ports: [", "a,"),
		"flow open":    fill("", "["),
		"map open":     fill("", "{a: "),
		"map close":    fill("", "}"),
		"dashes":       fill("", "- "),
		"questions":    fill("", "? "),
		"colons":       fill("", "a: "),
		"keys":         fill("", "a: b\n"),
		"quote":        fill("name: \"", "\\n"),
		"quotes":       fill("", "\"a\" "),
		"single quote": fill("name: '", "''"),
		"literal":      fill("name: |\n", " a\n"),
		"folded":       fill("name: >\n", " a\n\n"),
		"newlines":     fill("", "\n"),
		"blank lines":  fill("name:\n", " \n"),
		"plain lines":  fill("name: a\n", " a\n"),
		"comments":     fill("", "#\n"),
		"comment":      fill("", "#"),
		"spaces":       fill("a:", " "),
		"documents":    fill("", "---\n"),
		"anchors":      fill("", "&a "),
		"aliases":      fill("", "*a "),
		"tags":         fill("", "!a "),
		"pipes":        fill("", "|\n"),
		"percent":      fill("", "%a\n"),
		"wide runes":   fill("name: ", "é"),
		"crs":          fill("", "a: b\r"),
		"long env":     fill("env:\n", "  A: b\n"),
	} {
		// Whole, and cut to where the bound on tokens does not stop it yet.
		for _, src := range []string{text, text[:min(len(text), 40_000)]} {
			began := time.Now()
			var file File
			decode(newReport(), "sbx.yaml", []byte(src), &file)
			// No measure of speed: what is quadratic takes an hour, a loaded machine seconds.
			if d := time.Since(began); d > time.Minute {
				t.Errorf("%s, %d bytes: %v", name, len(src), d)
			}
		}
	}
}
