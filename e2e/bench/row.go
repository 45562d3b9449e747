package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Which way of a row is better.
const (
	lower  = "lower"
	higher = "higher"
)

// row is one line of the table. Ours and Peer are medians in Unit; a row that
// only describes the machine has no peer and a ratio of 0.
type row struct {
	Name        string    `json:"name"`
	Unit        string    `json:"unit"`
	Ours        float64   `json:"ours"`
	Peer        float64   `json:"peer,omitempty"`
	PeerName    string    `json:"peer_name,omitempty"`
	Ratio       float64   `json:"ratio,omitempty"`
	Better      string    `json:"better,omitempty"`
	Samples     []float64 `json:"samples"`
	PeerSamples []float64 `json:"peer_samples,omitempty"`
}

// compare makes a row of two series; both must have samples.
func compare(name, unit string, ours []float64, peerName string, peer []float64) row {
	r := row{
		Name: name, Unit: unit, Better: lower, PeerName: peerName,
		Samples: ours, PeerSamples: peer, Ours: median(ours), Peer: median(peer),
	}
	r.Ratio = r.Ours / r.Peer
	return r
}

// machineLimit makes a row that says what this machine can do at best.
func machineLimit(name, unit, better string, samples []float64) row {
	return row{Name: "machine: " + name, Unit: unit, Better: better, Samples: samples, Ours: median(samples)}
}

func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	if len(sorted) == 0 {
		return 0
	}
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// sample runs f n times and returns how long each took, in milliseconds.
func sample(n int, f func() error) ([]float64, error) {
	var out []float64
	for range n {
		start := time.Now()
		if err := f(); err != nil {
			return out, err
		}
		out = append(out, millis(time.Since(start)))
	}
	return out, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tOURS\tPEER\tPEER'S NAME\tRATIO\tBETTER\tSAMPLES")
	for _, r := range rows {
		peer, ratio := "-", "-"
		if r.PeerName != "" {
			peer, ratio = fmt.Sprintf("%.2f %s", r.Peer, r.Unit), fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(t, "%s\t%.2f %s\t%s\t%s\t%s\t%s\t%d\n", r.Name, r.Ours, r.Unit, peer, r.PeerName, ratio, r.Better, len(r.Samples))
	}
	t.Flush() //nolint:errcheck // the writer is the terminal: there is nowhere left to say it
}
