package configs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// Secret is a key that requests to its hosts get on their way out. The guest has a placeholder in
// the variable of that name.
type Secret struct {
	Name   string   `yaml:"name" jsonschema:"required,pattern=^[A-Za-z_][A-Za-z0-9_]{0\\,255}$,description=variable of the guest that holds the placeholder"`
	Hosts  []string `yaml:"hosts" jsonschema:"required,minItems=1,maxItems=32,description=names whose requests get the value: api.example.com"`
	Header string   `yaml:"header" jsonschema:"description=the one header that may hold it; any by default"`

	at Position
}

func (s *Secret) setPosition(at Position) { s.at = at }

// UserSecret is a secret in the user's file: where the value comes from, where it may go, or both.
type UserSecret struct {
	Name    string   `yaml:"name"`
	Hosts   []string `yaml:"hosts"`
	Header  string   `yaml:"header"`
	Env     string   `yaml:"env"`     // variable of the user's that has the value
	Command []string `yaml:"command"` // argv, run on the host, whose output is the value

	at Position
}

func (s *UserSecret) setPosition(at Position) { s.at = at }

// secrets gives the places of all secrets. What the user's file says of a secret's places holds: a project
// cannot send it elsewhere. What a project says takes consent.
func (b *builder) secrets() []netfilter.Secret {
	var out []netfilter.Secret
	for _, s := range b.user.Secrets {
		if b.userSecret(s) && len(s.Hosts) > 0 {
			out = append(out, b.secret(Secret{s.Name, s.Hosts, s.Header, s.at}, sourceUser))
		}
	}
	for _, s := range b.c.Agent.Secrets {
		// The user's own word for the same key goes before the preset's.
		if !slices.ContainsFunc(out, func(o netfilter.Secret) bool { return o.Name == s.Name }) {
			out = append(out, netfilter.Secret{Name: s.Name, Hosts: s.Hosts, Header: s.Header, Origin: b.c.Agent.origin()})
			place := Secret{Name: s.Name, Hosts: s.Hosts, Header: s.Header}.place()
			b.listed("secrets."+s.Name, "agent "+b.c.Agent.Name, Position{}, place)
			// Who types the agent's name, or has it in a file of his own, means to use its keys. A project that
			// names one asks for the use of them.
			if v := b.where("agent"); b.user.Agent != b.c.Agent.Name {
				b.widen(v.Source, WidenSecret, s.Name+", "+place, v.pos)
			}
		}
	}
	for _, s := range b.file.Secrets {
		switch i := slices.IndexFunc(out, func(o netfilter.Secret) bool { return o.Name == s.Name }); {
		case !matches(envPattern, s.Name):
			b.rep.add(s.at, "secret %q: is no name of a variable", cut(s.Name))
		case i < 0:
			out = append(out, b.secret(s, sourceProject))
			b.widen(sourceProject, WidenSecret, fmt.Sprintf("%s, %s", s.Name, s.place()), s.at)
		case out[i].Origin.Source == sourceProject:
			b.rep.add(s.at, "secret %q: is there twice", s.Name)
		case !slices.Equal(out[i].Hosts, s.Hosts) || !strings.EqualFold(out[i].Header, s.Header):
			by := "your own configuration"
			if out[i].Origin.Source != sourceUser {
				by = "the preset of agent " + b.c.Agent.Name
			}
			b.warn("%s: secret %s: %s says where it goes, and this does not count", s.at, s.Name, by)
		}
	}
	return out
}

func (b *builder) secret(s Secret, source string) netfilter.Secret {
	b.listed("secrets."+s.Name, source, s.at, s.place())
	return netfilter.Secret{Name: s.Name, Hosts: s.Hosts, Header: s.Header, Origin: s.at.origin(source)}
}

// place says where a secret goes. No pattern or header of a valid secret holds a space.
func (s Secret) place() string {
	hosts := make([]string, len(s.Hosts))
	for i, host := range s.Hosts {
		hosts[i] = netfilter.CanonicalPattern(host)
	}
	text := "to " + strings.Join(hosts, " ")
	if s.Header == "" {
		return text + " in any header"
	}
	return text + " in the header " + s.Header
}

// userSecret notes where a value comes from; false after a fault.
func (b *builder) userSecret(s UserSecret) bool {
	fault := ""
	switch {
	case !matches(envPattern, s.Name):
		fault = "is no name of a variable"
	case slices.ContainsFunc(b.user.Secrets, func(o UserSecret) bool { return o.Name == s.Name && o.at != s.at }):
		fault = "is there twice"
	case s.Env != "" && len(s.Command) > 0:
		fault = "has two sources, env and command"
	case s.Env != "" && !matches(envPattern, s.Env):
		fault = "env is no name of a variable"
	case s.Command != nil && (len(s.Command) == 0 || s.Command[0] == ""):
		fault = "command is empty"
	case slices.ContainsFunc(s.Command, func(arg string) bool { return strings.ContainsRune(arg, 0) }):
		fault = "command holds a NUL"
	case len(s.Hosts) == 0 && s.Header != "":
		fault = "has a header and no hosts"
	case len(s.Hosts) == 0 && s.Env == "" && len(s.Command) == 0:
		fault = "needs hosts, env or command"
	}
	if fault != "" {
		b.rep.add(s.at, "secret %q: %s", cut(s.Name), fault)
		return false
	}
	if s.Env != "" {
		b.listed("secrets."+s.Name, sourceUser, s.at, "from the variable "+s.Env)
	} else if len(s.Command) > 0 {
		b.listed("secrets."+s.Name, sourceUser, s.at, "from the command "+s.Command[0])
	}
	if s.Env != "" || len(s.Command) > 0 {
		b.c.Secrets = append(b.c.Secrets, machine.SecretSource{Name: s.Name, Env: s.Env, Command: s.Command})
	}
	return true
}
