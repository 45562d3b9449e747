package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// commandLimit is how long a user's command may take: a password manager may ask for a finger.
const commandLimit = time.Minute

// Wanted is a secret that a sandbox may use for hosts.
type Wanted struct {
	Name  string
	Hosts []string
}

// Value of a secret. It must not be printed.
type Value struct {
	Value string
	From  string // "environment", "command", "keyring" or "file"
}

// Resolve finds the values of what is wanted: by the sources of the user's own file, else in the
// environment under the secret's name, else in the store. A secret without a value is left out. The errors,
// joined, are of sources that failed, and name secrets alone.
func Resolve(ctx context.Context, s *Store, wanted []Wanted, sources []machine.SecretSource, getenv func(string) string) (map[string]Value, error) {
	values := map[string]Value{}
	var errs []error
	for _, w := range wanted {
		v, err := resolve(ctx, s, w, sources, getenv)
		if err == nil && v.Value != "" {
			err = Check(w.Name, v.Value)
		}
		if err != nil {
			errs = append(errs, err)
		} else if v.Value != "" {
			values[w.Name] = v
		}
	}
	return values, errors.Join(errs...)
}

func resolve(ctx context.Context, s *Store, w Wanted, sources []machine.SecretSource, getenv func(string) string) (Value, error) {
	variable := w.Name
	if i := slices.IndexFunc(sources, func(src machine.SecretSource) bool { return src.Name == w.Name }); i >= 0 {
		if len(sources[i].Command) > 0 {
			value, err := output(ctx, w.Name, sources[i].Command)
			return Value{value, "command"}, err
		}
		if sources[i].Env != "" {
			variable = sources[i].Env
		}
	}
	if value := getenv(variable); value != "" {
		return Value{value, "environment"}, nil
	}
	value, info, err := s.Get(ctx, w.Name)
	if errors.Is(err, ErrNone) {
		return Value{}, nil
	}
	if err != nil {
		return Value{}, err
	}
	for _, host := range w.Hosts {
		same := func(kept string) bool { return netfilter.CanonicalPattern(kept) == netfilter.CanonicalPattern(host) }
		if len(info.Hosts) > 0 && !slices.ContainsFunc(info.Hosts, same) {
			return Value{}, fmt.Errorf("secret %s: is kept for %s, not for %s", w.Name, strings.Join(info.Hosts, ", "), host)
		}
	}
	return Value{value, info.Where}, nil
}

// output runs a command of the user's own file. What it says of errors may hold the value, and stays out.
func output(ctx context.Context, name string, argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout = &limited{&out, maxValue + 1}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("secret %s: the command %q of your configuration: %w", name, argv[0], err)
	}
	return strings.TrimRight(out.String(), "\r\n"), nil
}

// limited takes so many bytes and fails then.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, errors.New("too long")
	}
	return l.to.Write(b)
}
