package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
)

func newTrust(a *app) *cobra.Command {
	var revoke, asJSON bool
	cmd := &cobra.Command{
		Use: "trust", Short: "Agree to what the project's sbx.yaml asks for",
		Long: "Shows what this folder's sbx.yaml asks for beyond the defaults (folders outside the project, names\n" +
			"beyond presets, ports on other addresses than 127.0.0.1 …) and remembers that you agree to exactly that.\n" +
			"When the file asks for something else later, you are asked again.",
		Example: "  sbx trust\n  sbx trust --revoke",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			return a.trust(ctx, revoke, asJSON)
		}),
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "forget all consent for this folder")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what is asked for as JSON, and agree to nothing")
	return cmd
}

func (a *app) trust(ctx context.Context, revoke, asJSON bool) error {
	trust, err := a.trustStore()
	if err != nil {
		return err
	}
	if revoke {
		return trust.Revoke(projectDir(a.Dir))
	}
	config, err := a.loadConfig(nil)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, config.Widening())
	}
	if len(config.Widening()) == 0 {
		_, err := fmt.Fprintln(a.Out, "nothing to agree to: the project asks for no more than the defaults")
		return err
	}
	for _, line := range describeWidening(config.Widening()) {
		fmt.Fprintln(a.Out, printable(line))
	}
	if a.canAsk() {
		if err := a.confirm(ctx, "agree to this for "+config.Project+"?", "nothing was agreed to"); err != nil {
			return err
		}
	}
	return trust.Grant(config)
}

func (a *app) trustStore() (configs.Trust, error) {
	st, err := a.openStore()
	if err != nil {
		return configs.Trust{}, err
	}
	return configs.Trust{Path: st.TrustFile()}, nil
}

// describeWidening says what a project asks for, one line each.
func describeWidening(asked []configs.Widening) []string {
	words := map[string]string{
		configs.WidenMount:   "share a folder outside the project",
		configs.WidenMask:    "show the guest files that are hidden otherwise",
		configs.WidenAllow:   "reach a name on the network",
		configs.WidenSecret:  "put a key of yours into its requests",
		configs.WidenDefault: "reach every public name",
		configs.WidenPort:    "let other machines connect",
		configs.WidenMirror:  "fetch packages from a server of its choice",
	}
	var lines []string
	for _, w := range asked {
		what := words[w.Kind]
		if what == "" {
			what = w.Kind
		}
		lines = append(lines, fmt.Sprintf("  %s: %s  (%s)", what, w.What, w.At))
	}
	return lines
}

// consent makes sure that the user agrees to what the project asks for: by an
// earlier answer, or by one now if somebody is there to give it.
func (a *app) consent(ctx context.Context, config *configs.Config) error {
	trust, err := a.trustStore()
	if err != nil {
		return err
	}
	trusted, err := trust.Trusted(config)
	if err != nil || trusted {
		return err
	}
	text := fmt.Sprintf("%s asks for more than the defaults:", config.File)
	if !a.canAsk() {
		for _, line := range describeWidening(config.Widening()) {
			text += "\n" + line
		}
		return hintf(errors.New(text), "read it, then agree with: sbx trust")
	}
	a.warn(text)
	for _, line := range describeWidening(config.Widening()) {
		fmt.Fprintln(a.Err, printable(line))
	}
	if err := a.confirm(ctx, "agree?", "not started: nothing was agreed to"); err != nil {
		return err
	}
	return trust.Grant(config)
}
