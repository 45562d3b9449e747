package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// UserFileName is the name of the user's file in Options.ConfigDir.
const UserFileName = "config.yaml"

// BaseDebian is the built-in recipe.
const BaseDebian = "debian-13"

// Options say where to look. Nothing else of the process is read.
type Options struct {
	Dir       string            // where the search for sbx.yaml begins, upward
	Home      string            // the user's home folder, "" if there is none
	ConfigDir string            // folder of the user's file, "" if there is none
	Env       []string          // as os.Environ gives it
	Flags     map[string]string // by Setting.Flag, only those that were given
	Host      Host              // see CurrentHost
}

// Config is the merged configuration. It is valid: [Load] gives no other.
type Config struct {
	Project   string // absolute folder without symbolic links
	File      string // the project file, "" if there is none
	Name      string
	Agent     Agent // the zero Agent if none is named
	Resources machine.Resources
	Image     ImageSpec
	Workspace machine.Workspace
	Network   netfilter.Spec
	Ports     []machine.Port
	Env       map[string]string
	Docker    bool
	Secrets   []machine.SecretSource // where values come from besides the store; their places are in Network
	Warnings  []string

	values   []Value
	widening []Widening
	host     Host
}

// ImageSpec is what the guest's image is made of. The agent's installation comes
// first, as a layer that projects share.
type ImageSpec struct {
	Base     string
	Packages []string // Debian packages
	Agent    []string // shell commands that install the agent
	Run      []string // the project's own, in order
	Mirror   string   // "" for the host's own choice
}

// Load finds, reads, merges and checks. What a user can mend comes as [Problems],
// all of it at once.
func Load(opts Options) (*Config, error) {
	project, path, err := find(opts.Dir)
	if err != nil {
		return nil, err
	}
	env := envMap(opts.Env)
	rep := newReport()
	var file File
	var user UserFile
	var projectScalars map[string]scalar
	if path != "" {
		src, err := readProject(path, env)
		if err != nil {
			return nil, err
		}
		projectScalars = decode(rep, path, src, &file)
	}
	userScalars, err := loadUser(rep, opts.ConfigDir, &user)
	if err != nil {
		return nil, err
	}
	fromEnv, warnings := envLayer(env)
	merged, values := overlay(rep, []layer{
		flagLayer(opts.Flags), fromEnv, {"project", projectScalars}, {"user", userScalars}, defaults(opts.Host),
	})
	b := &builder{
		rep: rep, file: file, user: user, merged: merged, home: opts.Home, environ: env, userScalars: userScalars,
		c: &Config{Project: project, File: path, Warnings: warnings, values: values, host: opts.Host},
	}
	b.version(projectScalars)
	b.version(userScalars)
	b.build()
	if err := rep.err(); err != nil {
		return nil, err
	}
	return b.c, nil
}

func loadUser(rep *report, dir string, user *UserFile) (map[string]scalar, error) {
	if dir == "" {
		return nil, nil
	}
	path := filepath.Join(dir, UserFileName)
	src, err := readUser(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the user's configuration: %w", err)
	}
	return decode(rep, path, src, user), nil
}

func envMap(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

// builder turns the merged files into a Config, part by part.
type builder struct {
	rep         *report
	file        File
	user        UserFile
	merged      scalars
	home        string
	environ     map[string]string
	userScalars map[string]scalar
	c           *Config
}

func (b *builder) build() {
	b.name()
	b.agent()
	b.resources()
	b.image()
	b.workspace()
	b.network()
	b.ports()
	b.env()
	b.c.Docker = bool(b.merged.Docker.Enabled)
	slices.SortStableFunc(b.c.widening, compareWidening)
}

// where gives the origin of an effective scalar.
func (b *builder) where(key string) Value {
	i := slices.IndexFunc(b.c.values, func(v Value) bool { return v.Key == key })
	if i < 0 {
		return Value{}
	}
	return b.c.values[i]
}

// warn notes what deserves a look.
func (b *builder) warn(format string, args ...any) {
	b.c.Warnings = append(b.c.Warnings, printable(fmt.Sprintf(format, args...)))
}

// listed records the entries of a list for `config show`.
func (b *builder) listed(key, source string, at Position, value string) {
	b.c.values = append(b.c.values, newValue(key, value, source, at))
}

// NameFrom says which layer gave the name: flag, env, project or default.
func (c *Config) NameFrom() string {
	i := slices.IndexFunc(c.values, func(v Value) bool { return v.Key == "name" })
	if i < 0 {
		return ""
	}
	return c.values[i].Source
}

// Values gives every effective value with its origin, scalars first, for
// `sbx config show`.
func (c *Config) Values() []Value { return slices.Clone(c.values) }
