package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbx-vm/sbx/configs"
)

func newConfig(a *app) *cobra.Command {
	return group("config", "Show and check the configuration", "  sbx config show\n  sbx config validate",
		newConfigShow(a), newConfigValidate(a), newConfigSchema(a))
}

// settingFlags gives a command a flag for each setting that every layer can give.
func settingFlags(flags *pflag.FlagSet) {
	for _, setting := range configs.Settings() {
		flags.String(setting.Flag, "", fmt.Sprintf("%s (%s, %s in sbx.yaml)", setting.Help, setting.Env, setting.Key))
	}
}

// givenSettings returns the values of settingFlags that were given.
func givenSettings(flags *pflag.FlagSet) map[string]string {
	given := map[string]string{}
	for _, setting := range configs.Settings() {
		if flag := flags.Lookup(setting.Flag); flag != nil && flag.Changed {
			given[setting.Flag] = flag.Value.String()
		}
	}
	return given
}

// loadConfig merges what holds for the current folder. flags may be nil.
func (a *app) loadConfig(flags map[string]string) (*configs.Config, error) {
	if a.Dir == "" {
		return nil, hintf(errors.New("there is no current folder"), "go to one that exists, or name the sandbox")
	}
	return a.loadConfigOf(a.Dir, flags)
}

func (a *app) loadConfigOf(dir string, flags map[string]string) (*configs.Config, error) {
	return configs.Load(configs.Options{
		Dir: dir, Home: a.home(), ConfigDir: a.configDir(), Env: a.Env, Flags: flags, Host: configs.CurrentHost(),
	})
}

// configDir is the folder of the user's own configuration.
func (a *app) configDir() string {
	if home := a.getenv("SBX_HOME"); home != "" {
		return filepath.Join(home, "config")
	}
	// The XDG specification ignores relative ones.
	if dir := a.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sbx")
	}
	if home := a.home(); home != "" {
		return filepath.Join(home, ".config", "sbx")
	}
	return ""
}

// home is the user's home folder, or nothing.
func (a *app) home() string {
	if home := a.getenv("HOME"); home != "" {
		return home
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return home
}

func newConfigShow(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Print the merged configuration and where each value came from",
		Example: "  sbx config show\n  SBX_CPUS=2 sbx config show --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := a.loadConfig(givenSettings(cmd.Flags()))
			if err != nil {
				return err
			}
			a.warnAll(config.Warnings)
			if asJSON {
				return printJSON(a.Out, config.Values())
			}
			var rows [][]string
			for _, value := range config.Values() {
				rows = append(rows, []string{value.Key, value.Value, value.Source, value.At})
			}
			return printTable(a.Out, []string{"KEY", "VALUE", "FROM", "AT"}, rows)
		},
	}
	jsonFlag(cmd, &asJSON)
	settingFlags(cmd.Flags())
	return cmd
}

func newConfigValidate(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "validate", Short: "Check sbx.yaml and your own configuration",
		Long:    "Checks all that holds for the current folder and prints all that is wrong with it, with\nfile, line and column.",
		Example: "  sbx config validate",
		Args:    maxArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			config, err := a.loadConfig(nil)
			if err != nil {
				return err
			}
			a.warnAll(config.Warnings)
			file := config.File
			if file == "" {
				file = fmt.Sprintf("no %s for %s: the defaults hold", configs.FileName, config.Project)
			} else {
				file += ": valid"
			}
			_, err = fmt.Fprintln(a.Out, printable(file))
			return err
		},
	}
}

func newConfigSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of sbx.yaml",
		Long:    "Prints the JSON Schema of sbx.yaml, for editors: the first line of what `sbx init` writes names it.",
		Example: "  sbx config schema > sbx.schema.json",
		Args:    maxArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			schema, err := configs.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, string(schema))
			return err
		},
	}
}

func (a *app) warnAll(warnings []string) {
	for _, warning := range warnings {
		a.warn(warning)
	}
}
