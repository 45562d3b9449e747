package gateway

import (
	"slices"
	"testing"
)

// row is an attack case of the egress list: its number there and what it is.
// Each gets a gateway, a network and a hostile guest of its own.
type row struct {
	name string
	run  func(t *testing.T, w *world)
}

func TestEgress(t *testing.T) {
	for _, r := range floodRows() { // alone, because they measure time
		t.Run(r.name, func(t *testing.T) { r.run(t, newWorld(t, 0)) })
	}
	rows := slices.Concat(dnsRows(), bypassRows(), specialRows(), nameRows(), tlsRows(), httpRows(),
		portRows(), linkRows(), frameRows(), serviceRows(), policyRows(), moreRows())
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			r.run(t, newWorld(t, 0))
		})
	}
}
