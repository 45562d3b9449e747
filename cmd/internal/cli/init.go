package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
)

func newInit(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "init", Short: "Write a commented sbx.yaml into the current folder",
		Long: "Writes a commented sbx.yaml into the current folder. sbx works without one: it is the place to say\n" +
			"more than the defaults. One that is there is not replaced without --force.",
		Example: "  sbx init && $EDITOR sbx.yaml",
		Args:    maxArgs(0, "no arguments"),
		RunE:    func(*cobra.Command, []string) error { return a.init(force) },
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the file that is there")
	return cmd
}

func (a *app) init(force bool) error {
	path := filepath.Join(a.Dir, configs.FileName)
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		// What stands there may be a link that somebody else put: it is replaced, not followed.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	file, err := os.OpenFile(path, flags, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return hintf(fmt.Errorf("%q is there already", path), "look at it with: sbx config show; replace it with: sbx init --force")
	}
	if err != nil {
		return err
	}
	if _, err := file.Write(configs.InitTemplate()); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "wrote %s; next: sbx up\n", printable(path))
	return err
}
