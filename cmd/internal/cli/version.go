package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// versionInfo is what `sbx version --json` prints.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of sbx",
		Example: "  sbx version\n  sbx version --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			info := versionInfo{Version: a.version(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if asJSON {
				return printJSON(a.Out, info)
			}
			_, err := fmt.Fprintf(a.Out, "sbx %s (%s, %s/%s)\n", info.Version, info.Go, info.OS, info.Arch)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// jsonFlag is the --json of every listing.
func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}
