package cli

import (
	"regexp"

	"github.com/spf13/cobra"
)

// validName checks the name of a sandbox. The pattern is a promise: it is a host
// name's label, a file name and a socket's name at once, and no option.
func validName(name string) error {
	if ok, err := regexp.MatchString(`^[a-z0-9][a-z0-9-]{0,38}$`, name); err != nil || !ok {
		return hintf(usagef("%q is no sandbox name", name),
			"a name is 1 to 39 of a-z, 0-9 and -, and does not begin with -")
	}
	return nil
}

// nameArg is [NAME].
func nameArg(cmd *cobra.Command, args []string) error {
	if err := maxArgs(1, "one NAME")(cmd, args); err != nil {
		return err
	}
	if len(args) == 0 {
		return nil
	}
	return validName(args[0])
}
