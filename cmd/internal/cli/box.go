package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/store"
)

// sandbox is one that exists.
type sandbox struct {
	name  string
	store *store.Store
	files *store.Sandbox
	spec  machine.Spec
	// client is nil unless it runs, see app.running. The command closes the sandbox.
	client *control.Client
}

// close ends the connection to the supervisor.
func (b *sandbox) close() { b.client.Close() } //nolint:errcheck // only idle connections are left

func (b *sandbox) logs() []*logTail {
	return []*logTail{
		{kind: "boot", path: b.files.ConsoleLog()},
		{kind: "net", path: b.files.NetLog()},
		{kind: "docker", path: b.files.DockerLog()},
		{kind: "agent", path: b.files.ConsoleLog(), prefix: boot.LogPrefix},
		{kind: "files", path: b.files.FilesLog()},
		{kind: "supervisor", path: b.files.SupervisorLog()},
	}
}

func (a *app) openStore() (*store.Store, error) { return store.Open(a.getenv) }

// existing finds the sandbox that a command is about; typed is NAME or empty. In a
// sub-folder of a sandbox's project it is that sandbox: what looks at one or works
// in it must not have to be typed at the top.
func (a *app) existing(typed string) (*sandbox, error) {
	st, err := a.openStore()
	if err != nil {
		return nil, err
	}
	name, err := a.chooseName(st, typed)
	var other foreign
	if typed == "" && (errors.As(err, &other) || err == nil && !st.Exists(name)) {
		if above, _, ok := a.sandboxAbove(st); ok {
			name, err = above, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return a.open(st, name, typed)
}

// own is existing for what ends or deletes a sandbox: it must be that of this very
// folder, or be named.
func (a *app) own(typed string) (*sandbox, error) {
	st, err := a.openStore()
	if err != nil {
		return nil, err
	}
	name, err := a.chooseName(st, typed)
	if err != nil {
		return nil, err
	}
	return a.open(st, name, typed)
}

func (a *app) open(st *store.Store, name, typed string) (*sandbox, error) {
	box := &sandbox{name: name, store: st, files: st.Sandbox(name)}
	var err error
	box.spec, err = box.files.ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, a.none(st, name, typed)
	}
	return box, err
}

// running finds a sandbox that takes commands and connects to its supervisor.
func (a *app) running(ctx context.Context, typed string) (*sandbox, error) {
	box, err := a.existing(typed)
	if err != nil {
		return nil, err
	}
	box.client, err = control.Dial(ctx, box.files.ControlSocket())
	if err == nil {
		return box, nil
	}
	status := box.store.Status(ctx, box.name)
	up := "sbx up"
	if typed != "" {
		up += " " + typed
	}
	switch status.State {
	case machine.Running, machine.Paused:
		return nil, fmt.Errorf("sandbox %q runs and does not answer: %w", box.name, err)
	case machine.Starting, machine.Stopping:
		return nil, hintf(fmt.Errorf("sandbox %q is %s", box.name, status.State), "wait for it with: %s", up)
	default:
		return nil, hintf(fmt.Errorf("sandbox %q is not running (%s)", box.name, status.State), "start it with: %s", up)
	}
}

// noSandbox is an error that says that a folder has none.
type noSandbox struct{ error }

func (n noSandbox) Unwrap() error { return n.error }

// none says that there is none of that name, and what was meant perhaps.
func (a *app) none(st *store.Store, name, typed string) error {
	if typed != "" {
		return hintf(fmt.Errorf("no sandbox %q", name), "see: sbx ls")
	}
	project := projectDir(a.Dir)
	if other, dir, ok := a.sandboxAbove(st); ok {
		return hintf(fmt.Errorf("no sandbox for %q", project), "the folder %q above it has one: give its name, %s", dir, other)
	}
	return noSandbox{hintf(fmt.Errorf("no sandbox for %q", project), "make one with: sbx up")}
}

// sandboxAbove finds the sandbox of the nearest folder above this project.
func (a *app) sandboxAbove(st *store.Store) (name, dir string, ok bool) {
	for dir := filepath.Dir(projectDir(a.Dir)); ; dir = filepath.Dir(dir) {
		if name, ok := sandboxOf(st, dir); ok {
			return name, dir, true
		}
		if dir == filepath.Dir(dir) {
			return "", "", false
		}
	}
}

// projectDir is the folder that a command without NAME is about: that of the
// nearest sbx.yaml above dir, else dir itself.
func projectDir(dir string) string {
	for up := dir; ; up = filepath.Dir(up) {
		if info, err := os.Stat(filepath.Join(up, configs.FileName)); err == nil && info.Mode().IsRegular() {
			return up
		}
		if up == filepath.Dir(up) {
			return dir
		}
	}
}

// sandboxOf finds the first sandbox that belongs to the folder project.
func sandboxOf(st *store.Store, project string) (string, bool) {
	entries, err := st.List()
	if err != nil {
		return "", false
	}
	for _, entry := range entries {
		if entry.Spec.Project == project {
			return entry.Name, true
		}
	}
	return "", false
}

// foreign says that the name which a folder's sandbox would have is taken by another folder's.
type foreign struct{ name, project string }

func (f foreign) Error() string {
	return fmt.Sprintf("sandbox %q belongs to the folder %q", f.name, f.project)
}

// Hint is for both who meant that one and who meant this folder's.
func (f foreign) Hint() string {
	return fmt.Sprintf("to mean that one, name it: %s; this folder has none yet: sbx up NAME, or name: in %s", f.name, configs.FileName)
}

// chooseName decides which sandbox is meant: the typed one, else the project's own
// by the configuration, else the one that was made for this folder: it must be
// possible to stop a sandbox whose sbx.yaml is broken. A folder's name or a project
// file's `name:` never means a sandbox of another folder: what is typed here would run,
// open the network or delete there.
func (a *app) chooseName(st *store.Store, typed string) (string, error) {
	if typed != "" {
		return typed, nil
	}
	if a.Dir == "" {
		return "", hintf(errors.New("there is no current folder"), "name the sandbox, see: sbx ls")
	}
	config, err := a.loadConfig(nil)
	var taken error
	if err == nil {
		if taken = takenByOther(st, config); taken == nil && st.Exists(config.Name) {
			return config.Name, nil
		}
	}
	if name, ok := sandboxOf(st, projectDir(a.Dir)); ok {
		return name, nil
	}
	if err := errors.Join(err, taken); err != nil {
		return "", err
	}
	return config.Name, nil
}

// takenByOther is an error if the configuration's name is that of another folder's sandbox. A name in the
// environment is the user's own word, as a typed one is.
func takenByOther(st *store.Store, config *configs.Config) error {
	if config.NameFrom() == "env" {
		return nil
	}
	spec, err := st.Sandbox(config.Name).ReadSpec()
	if err != nil || spec.Project == config.Project {
		return nil //nolint:nilerr // there is none, or one that is broken and must be deletable
	}
	return foreign{config.Name, spec.Project}
}
