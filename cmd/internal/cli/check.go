package cli

import (
	"errors"
	"fmt"
	"io"
)

// Statuses of a check. They are an interface of `sbx doctor --json`.
const (
	checkOK      = "ok"
	checkWarning = "warning" // sbx works, less well or less safely
	checkMissing = "missing" // sbx cannot work without it
)

// check is one thing that doctor looked at.
type check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to type or do
}

// printChecks writes checks for a person.
func printChecks(w io.Writer, checks []check) {
	for _, c := range checks {
		fmt.Fprintf(w, "%-8s %s: %s\n", c.Status, c.Name, printable(c.Detail))
		if c.Fix != "" {
			fmt.Fprintf(w, "%8s %s\n", "", "→ "+printable(c.Fix))
		}
	}
}

// missing is an error if a check found that something required is not there.
func missing(checks []check) error {
	n := 0
	for _, c := range checks {
		if c.Status == checkMissing {
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return errors.New("one thing that sbx needs is missing")
	default:
		return fmt.Errorf("%d things that sbx needs are missing", n)
	}
}
