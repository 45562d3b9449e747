package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxSpec bounds a container's description, in bytes.
const maxSpec = 4 << 20

// Runc is the step before runc: it adds the guest's authorities to what a container is
// described by, then becomes runc. What it cannot read or change it leaves to runc, which
// says what is wrong with it. args are runc's, with its name.
func Runc(args []string) error {
	if err := amend(args[1:], os.Getwd); err != nil {
		fmt.Fprintln(os.Stderr, "sbx-guest: certificates for a container:", err)
	}
	runc, err := realRunc()
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, args[1:]...), os.Environ())
}

func realRunc() (string, error) {
	for _, path := range []string{"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc"} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", errors.New("runc is not installed")
}

// amend changes the files that a call of runc is going to read.
func amend(args []string, wd func() (string, error)) error {
	command, rest := split(args)
	switch command {
	case "create", "run", "restore":
		dir := option(rest, "--bundle", "-b")
		if dir == "" {
			var err error
			if dir, err = wd(); err != nil {
				return err
			}
		}
		return rewrite(filepath.Join(dir, "config.json"), amendSpec)
	case "exec":
		if file := option(rest, "--process", "-p"); file != "" {
			return rewrite(file, amendProcess)
		}
	}
	return nil
}

// split finds runc's command among its global options.
func split(args []string) (command string, rest []string) {
	valued := []string{"--root", "--log", "--log-format", "--criu", "--rootless"}
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(valued, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			return args[i], args[i+1:]
		}
	}
	return "", nil
}

// option gives the value of "--long V", "--long=V", "-s V".
func option(args []string, long, short string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, long+"="); ok {
			return value
		}
		if (arg == long || arg == short) && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// rewrite changes a JSON document whole. Numbers stay as they are written.
func rewrite(path string, change func(map[string]any)) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxSpec {
		return fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxSpec)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var doc map[string]any
	if err := decoder.Decode(&doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	change(doc)
	if data, err = json.Marshal(doc); err != nil {
		return err
	}
	if err := os.WriteFile(path+".sbx", data, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(path+".sbx", path)
}

// amendSpec adds the bundle and the variables to an OCI runtime configuration.
func amendSpec(doc map[string]any) {
	process, ok := doc["process"].(map[string]any)
	if !ok {
		return
	}
	mounts, _ := doc["mounts"].([]any)
	doc["mounts"] = append(mounts, map[string]any{
		"destination": inContainer, "type": "bind", "source": Bundle, "options": []any{"bind", "ro", "nosuid", "nodev", "noexec"},
	})
	amendProcess(process)
}

// amendProcess adds the variables that the process has not.
func amendProcess(process map[string]any) {
	env, _ := process["env"].([]any)
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(v any) bool {
			s, ok := v.(string)
			return ok && strings.HasPrefix(s, name+"=")
		})
	}
	values := environment(inContainer, inContainer)
	for _, name := range Names() {
		if !has(name) {
			env = append(env, name+"="+values[name])
		}
	}
	process["env"] = env
}
