package configs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// maxGrants bounds what is remembered for one project: enough for its branches.
const maxGrants = 32

// trustFile is the form on disk: for each project the digests that were granted,
// the oldest first.
type trustFile struct {
	Version  int                 `json:"version"`
	Projects map[string][]string `json:"projects"`
}

// Trust keeps the user's consent, in a file outside every project. The zero Path
// is not valid.
type Trust struct{ Path string }

// Trusted tells whether the user has agreed to exactly what the project asks for.
// Nothing asked needs no consent. A file that cannot be read is an error, and
// then nothing is trusted.
func (t Trust) Trusted(c *Config) (bool, error) {
	if len(c.widening) == 0 {
		return true, nil
	}
	file, err := t.read()
	if err != nil {
		return false, err
	}
	d := digest(c.Project, c.widening)
	return d != "" && slices.Contains(file.Projects[c.Project], d), nil
}

// Grant remembers the user's consent to what the project asks for now.
func (t Trust) Grant(c *Config) error {
	return t.change(func(file *trustFile) {
		d := digest(c.Project, c.widening)
		if d == "" || slices.Contains(file.Projects[c.Project], d) {
			return
		}
		all := append(file.Projects[c.Project], d)
		file.Projects[c.Project] = all[max(0, len(all)-maxGrants):]
	})
}

// Revoke forgets all consent for a project folder.
func (t Trust) Revoke(project string) error {
	return t.change(func(file *trustFile) { delete(file.Projects, project) })
}

// change reads, edits and writes the file whole, one process at a time.
func (t Trust) change(edit func(*trustFile)) error {
	if err := os.MkdirAll(filepath.Dir(t.Path), 0o700); err != nil {
		return fmt.Errorf("keep consent: %w", err)
	}
	lock := flock.New(t.Path + ".lock")
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("keep consent: %w", err)
	}
	defer func() { _ = lock.Close() }() // closing the descriptor cannot leave the lock held
	file, err := t.read()
	if err != nil {
		return err
	}
	edit(&file)
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("keep consent: %w", err)
	}
	if err := renameio.WriteFile(t.Path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep consent: %w", err)
	}
	return nil
}

func (t Trust) read() (trustFile, error) {
	file := trustFile{Version: 1, Projects: map[string][]string{}}
	text, err := os.ReadFile(t.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	if err != nil {
		return file, fmt.Errorf("read consent: %w", err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return file, fmt.Errorf("read consent from %q: %w", t.Path, err)
	}
	if file.Version != 1 {
		return file, fmt.Errorf("read consent from %q: version %d is of a newer sbx", t.Path, file.Version)
	}
	if file.Projects == nil {
		file.Projects = map[string][]string{}
	}
	return file, nil
}
