package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// attack is a line of a table.
type attack struct {
	id, name string
	residual string // the sentence of docs/security.md, if it cannot be stopped
	untested string // why it has no test
}

// parseCases reads a table; every ID stands there once.
func parseCases(table []byte) ([]attack, error) {
	var cases []attack
	seen := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 2 || len(fields) > 3 || seen[fields[0]] {
			return nil, fmt.Errorf("line %q: want a new ID, a name and perhaps a sentence", line)
		}
		seen[fields[0]] = true
		c := attack{id: fields[0], name: fields[1]}
		if len(fields) == 3 {
			if why, ok := strings.CutPrefix(fields[2], "SKIP "); ok {
				c.untested = why
			} else {
				c.residual = fields[2]
			}
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// The verdicts.
const (
	pass     = "PASS"
	fail     = "FAIL"
	skip     = "SKIP"
	residual = "RESIDUAL"
)

// results is how the tests of an ID ended: a name of a test and "pass", "fail" or "skip".
type results map[string]map[string]string

// event is a line of go test -json.
type event struct{ Action, Package, Test string }

// read collects the ends of tests by ID, and what failed without belonging to one.
func read(in io.Reader) (got results, others []string, err error) {
	got = results{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			others = append(others, lines.Text()) // go test says in words that it could not build
			continue
		}
		if e.Action != "pass" && e.Action != "fail" && e.Action != "skip" {
			continue
		}
		ids := idsOf(e.Test)
		if len(ids) == 0 && e.Action == "fail" {
			others = append(others, strings.TrimSpace(e.Package+" "+e.Test))
		}
		for _, id := range ids {
			if got[id] == nil {
				got[id] = map[string]string{}
			}
			got[id][e.Package+" "+e.Test] = e.Action
		}
	}
	return got, others, lines.Err()
}

// idsOf finds the cases that a test is of. A part of its name may begin with more than one
// ID: "N6_N7_wildcards".
func idsOf(test string) []string {
	id := regexp.MustCompile(`^(?:Test)?([A-Z]\d+)_`)
	var ids []string
	for part := range strings.SplitSeq(test, "/") {
		for m := id.FindStringSubmatch(part); m != nil; m = id.FindStringSubmatch(part) {
			ids = append(ids, m[1])
			part = part[len(m[0]):]
		}
	}
	return ids
}

// verdict is one line of the report.
type verdict struct {
	attack
	word string
	why  string
}

// judge decides each case by its tests, or by its sentence in docs.
func judge(cases []attack, got results, docs string) []verdict {
	docs = strings.Join(strings.Fields(docs), " ")
	var out []verdict
	for _, c := range cases {
		v := verdict{attack: c}
		v.word, v.why = tested(got[c.id])
		switch {
		case c.untested != "" && len(got[c.id]) == 0:
			v.word, v.why = skip, c.untested
		case c.residual != "" && !strings.Contains(docs, c.residual):
			v.word, v.why = fail, fmt.Sprintf("docs/security.md does not say %q", c.residual)
		case c.residual != "" && len(got[c.id]) == 0:
			v.word, v.why = residual, c.residual
		}
		out = append(out, v)
	}
	return out
}

func tested(tests map[string]string) (word, why string) {
	if len(tests) == 0 {
		return fail, "no test"
	}
	var failed, skipped []string
	for test, end := range tests {
		switch end {
		case "fail":
			failed = append(failed, test)
		case "skip":
			skipped = append(skipped, test)
		}
	}
	slices.Sort(failed)
	slices.Sort(skipped)
	switch {
	case len(failed) > 0:
		return fail, strings.Join(failed, ", ")
	case len(skipped) > 0:
		return skip, strings.Join(skipped, ", ")
	}
	return pass, ""
}

// report writes a line for each case and the sum. A residual case counts as passed: its
// sentence was found.
func report(w io.Writer, verdicts []verdict) error {
	var passed, failed, skipped int
	for _, v := range verdicts {
		switch v.word {
		case fail:
			failed++
		case skip:
			skipped++
		default:
			passed++
		}
		line := fmt.Sprintf("%-4s %-8s %s", v.id, v.word, v.name)
		if v.why != "" {
			line += ": " + v.why
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return err
}
