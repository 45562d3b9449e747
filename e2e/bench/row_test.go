package main

import (
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestTableShowsRatio(t *testing.T) {
	var out strings.Builder
	printTable(&out, []row{
		compare("start", "ms", []float64{10, 30, 20}, "peer", []float64{40}),
		machineLimit("fork", "ms", lower, []float64{1}),
	})
	for _, want := range []string{"20.00 ms", "40.00 ms", "0.50", "machine: fork"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
}
