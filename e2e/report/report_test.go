package main

import (
	"slices"
	"strings"
	"testing"
)

func TestIDsOf(t *testing.T) {
	for test, want := range map[string][]string{
		"TestEgress/D4_NULL":            {"D4"},
		"TestEgress/N6_N7_wildcards":    {"N6", "N7"},
		"TestEgress/L9_DHCP/L7_spray":   {"L9", "L7"},
		"TestEgress/AAAA_is_empty":      nil,
		"TestEgress/H_bare_LF":          nil,
		"TestX1":                        nil,
		"TestEgress/not_D4_NULL":        nil,
		"TestEgress/D10_other_owner#01": {"D10"},
		"TestEgress/D1":                 nil,
	} {
		if got := idsOf(test); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", test, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	cases, err := parseCases([]byte("A1\tone\nA2\ttwo\nA3\tthree\nA4\tfour\nA5\tfive\tIt is so.\nA6\tsix\tIt is not.\nA7\tseven\tIt is so.\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, others, err := read(strings.NewReader(strings.Join([]string{
		`{"Action":"run","Package":"p","Test":"T/A1_x"}`,
		`{"Action":"pass","Package":"p","Test":"T/A1_x"}`,
		`{"Action":"pass","Package":"p","Test":"T/A2_x"}`,
		`{"Action":"fail","Package":"p","Test":"T/A2_y"}`,
		`{"Action":"pass","Package":"p","Test":"T/A3_x"}`,
		`{"Action":"skip","Package":"p","Test":"T/A3_y"}`,
		`{"Action":"pass","Package":"p","Test":"T/A7_x"}`,
		`{"Action":"fail","Package":"p","Test":"TOther"}`,
	}, "\n")))
	if err != nil || !slices.Equal(others, []string{"p TOther"}) {
		t.Fatalf("others %q, %v", others, err)
	}
	var out strings.Builder
	if err := report(&out, judge(cases, got, "Lines.\nIt is\nso.")); err != nil {
		t.Fatal(err)
	}
	want := `A1   PASS     one
A2   FAIL     two: p T/A2_y
A3   SKIP     three: p T/A3_y
A4   FAIL     four: no test
A5   RESIDUAL five: It is so.
A6   FAIL     six: docs/security.md does not say "It is not."
A7   PASS     seven
3 passed, 3 failed, 1 skipped
`
	if out.String() != want {
		t.Errorf("got:\n%s", out.String())
	}
}

func TestTableOfCases(t *testing.T) {
	for _, name := range []string{"egress.tsv", "workspace.tsv"} {
		rows, err := tables.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		cases, err := parseCases(rows)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			if ids := idsOf(c.id + "_"); !slices.Equal(ids, []string{c.id}) {
				t.Errorf("the ID %q is not one", c.id)
			}
		}
	}
	if _, err := parseCases([]byte("A1\tone\nA1\tagain\n")); err == nil {
		t.Error("an ID twice is taken")
	}
}
