// Package secret keeps the values that never enter a guest. They are the user's, for all sandboxes:
// which sandbox may use one, and for which hosts, its configuration says and the user consents to.
//
// A value lives in the operating system's keyring, or, where there is none, in a file that is the user's
// alone. Beside it a list without values says what there is, so that a listing opens no keyring. No
// function prints a value, and no error holds one.
package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"github.com/zalando/go-keyring"
)

const (
	service  = "sbx" // in the keyring
	maxValue = 64 << 10
	maxHosts = 32
	version  = 1
	// keyringLimit is how long the keyring may take: it may ask the user to unlock it.
	keyringLimit = time.Minute
)

// ErrNone says that there is no secret of that name.
var ErrNone = errors.New("there is no such secret")

// Where a value is kept.
const (
	InKeyring = "keyring"
	InFile    = "file"
)

// Info is what is known of a secret without its value.
type Info struct {
	Name  string    `json:"name"`
	Hosts []string  `json:"hosts,omitempty"` // the only ones it may be put into requests to; none: as configured
	Where string    `json:"where"`
	Set   time.Time `json:"set"`
	// Stale says that the keyring did not answer when the value went into the file, and may still hold an
	// older one. It is not used.
	Stale bool `json:"stale,omitempty"`
}

// Store is the user's secrets. Its methods may be called from several processes.
type Store struct {
	dir     string
	keyring bool
}

// Open uses dir, which exists and is the user's alone, and the keyring if wanted: a world of its own
// (SBX_HOME) has none, or two worlds would meet there.
func Open(dir string, useKeyring bool) *Store { return &Store{dir, useKeyring} }

type list struct {
	Version int    `json:"version"`
	Secrets []Info `json:"secrets"`
}

func (s *Store) listFile() string  { return filepath.Join(s.dir, "secrets.json") }
func (s *Store) valueFile() string { return filepath.Join(s.dir, "secret-values.json") }

// Check tells why a name or a value cannot be kept. Values have one line, because they go into headers.
func Check(name, value string) error {
	if !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`).MatchString(name) {
		return fmt.Errorf("secret %.80q: must be a name of a variable, such as ANTHROPIC_API_KEY", name)
	}
	switch {
	case value == "":
		return fmt.Errorf("secret %s: the value is empty", name)
	case len(value) > maxValue:
		return fmt.Errorf("secret %s: the value has %d bytes, more than %d", name, len(value), maxValue)
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("secret %s: the value has control characters or more than one line", name)
	}
	return nil
}

// Set keeps a value, with the hosts that it may go to (none: those of the configuration), in place of an older one,
// wherever that is: in the keyring, or in the file if the keyring fails. It fails itself if the keyring is silent,
// which may yet do what it was asked.
func (s *Store) Set(ctx context.Context, name, value string, hosts []string) (Info, error) {
	if err := Check(name, value); err != nil {
		return Info{}, err
	}
	if len(hosts) > maxHosts {
		return Info{}, fmt.Errorf("secret %s: %d hosts, more than %d", name, len(hosts), maxHosts)
	}
	info := Info{Name: name, Hosts: hosts, Where: InFile, Set: time.Now().UTC().Truncate(time.Second)}
	return info, s.change(ctx, func(l *list) error {
		kept := value
		switch err := s.ask(ctx, func() error { return keyring.Set(service, name, value) }); {
		case err == nil:
			info.Where, kept = InKeyring, ""
		case errors.Is(err, errSilent) || ctx.Err() != nil:
			return fmt.Errorf("secret %s: the keyring: %w", name, err)
		default:
			info.Stale = l.inKeyring(name) && s.forget(ctx, name) != nil
		}
		if err := s.writeValue(name, kept); err != nil {
			return err
		}
		l.remove(name)
		l.Secrets = append(l.Secrets, info)
		return nil
	})
}

// Remove forgets a secret in the keyring and in the file; the error is ErrNone if there is none. What the keyring
// does not give up stays listed, without a value that anybody uses, so that Remove can be tried again.
func (s *Store) Remove(ctx context.Context, name string) error {
	var left error
	err := s.change(ctx, func(l *list) error {
		err := s.forget(ctx, name)
		i := slices.IndexFunc(l.Secrets, func(i Info) bool { return i.Name == name })
		switch {
		case i < 0 && err != nil:
			return fmt.Errorf("%w: %s", ErrNone, name)
		case l.inKeyring(name) && err != nil && !errors.Is(err, keyring.ErrNotFound):
			left = fmt.Errorf("secret %s: the keyring may still have it: %w", name, err)
			l.Secrets[i].Where, l.Secrets[i].Stale = InFile, true
		default:
			l.remove(name)
		}
		return s.writeValue(name, "")
	})
	return errors.Join(err, left)
}

// forget deletes what the keyring has of a name.
func (s *Store) forget(ctx context.Context, name string) error {
	return s.ask(ctx, func() error { return keyring.Delete(service, name) })
}

var (
	errNoKeyring = errors.New("is not used here")
	errSilent    = errors.New("does not answer")
)

// ask calls the keyring, which may have to ask the user, and gives up when that takes too long or ctx ends: the
// call itself cannot be called back.
func (s *Store) ask(ctx context.Context, call func() error) error {
	if !s.keyring {
		return errNoKeyring
	}
	ctx, cancel := context.WithTimeoutCause(ctx, keyringLimit, errSilent)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inKeyring tells whether the keyring has, or may have, a value of that name.
func (l *list) inKeyring(name string) bool {
	return slices.ContainsFunc(l.Secrets, func(i Info) bool { return i.Name == name && (i.Where == InKeyring || i.Stale) })
}

func (l *list) remove(name string) {
	l.Secrets = slices.DeleteFunc(l.Secrets, func(i Info) bool { return i.Name == name })
}

// List gives what there is, by name.
func (s *Store) List() ([]Info, error) {
	l, err := s.read()
	slices.SortFunc(l.Secrets, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return l.Secrets, err
}

// Get gives a value and what is known of it; ErrNone if there is none. The value is from where the list says and
// from nowhere else.
func (s *Store) Get(ctx context.Context, name string) (string, Info, error) {
	l, err := s.read()
	if err != nil {
		return "", Info{}, err
	}
	i := slices.IndexFunc(l.Secrets, func(i Info) bool { return i.Name == name })
	if i < 0 {
		return "", Info{}, fmt.Errorf("%w: %s", ErrNone, name)
	}
	if l.Secrets[i].Where == InKeyring {
		got := make(chan string, 1)
		err := s.ask(ctx, func() error {
			value, err := keyring.Get(service, name)
			got <- value
			return err
		})
		if err != nil {
			return "", l.Secrets[i], fmt.Errorf("secret %s: the keyring: %w", name, err)
		}
		return <-got, l.Secrets[i], nil
	}
	values, err := s.readValues()
	if err == nil && values[name] == "" {
		err = fmt.Errorf("secret %s: %s has no value for it: sbx secret set %s", name, s.valueFile(), name)
	}
	return values[name], l.Secrets[i], err
}

// change rewrites the list under a lock.
func (s *Store) change(ctx context.Context, f func(*list) error) error {
	lock := flock.New(filepath.Join(s.dir, "secrets.lock"), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock the secrets: %w", err)
	}
	defer lock.Unlock() //nolint:errcheck // the lock goes with the descriptor at the latest
	l, err := s.read()
	if err != nil {
		return err
	}
	if err := f(&l); err != nil {
		return err
	}
	l.Version = version
	return write(s.listFile(), l)
}

func (s *Store) read() (list, error) {
	var l list
	if err := readFile(s.listFile(), &l); err != nil {
		return list{}, err
	}
	if l.Version > version {
		return list{}, fmt.Errorf("%s: version %d: this sbx understands %d", s.listFile(), l.Version, version)
	}
	return l, nil
}

func (s *Store) readValues() (map[string]string, error) {
	values := map[string]string{}
	return values, readFile(s.valueFile(), &values)
}

// writeValue puts a value into the file, or takes it out.
func (s *Store) writeValue(name, value string) error {
	values, err := s.readValues()
	if err != nil {
		return err
	}
	before := maps.Clone(values)
	if delete(values, name); value != "" {
		values[name] = value
	}
	if maps.Equal(before, values) {
		return nil
	}
	return write(s.valueFile(), values)
}

// readFile reads JSON; a file that is not there is empty. What stands in a broken one stays out of the error.
func readFile(path string, into any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if json.Unmarshal(data, into) != nil {
		return fmt.Errorf("%s: is broken: mend it, or move it away and set the secrets again", path)
	}
	return nil
}

func write(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
