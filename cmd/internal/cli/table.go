package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printTable writes rows below a header, in columns. Cells are escaped.
func printTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			cells[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// printFields writes "name: value" lines, values in one column. Empty values are
// left out.
func printFields(w io.Writer, fields [][2]string) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	for _, field := range fields {
		if field[1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", field[0], printable(field[1]))
		}
	}
	return t.Flush()
}

// printJSON writes v indented. encoding/json escapes what a terminal would obey,
// but not the bidirectional overrides: they are text to a program.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// printJSONLine writes v on one line, for a stream of values.
func printJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
