package configs

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/sbx-vm/sbx/netfilter"
)

//go:embed agents.yaml
var agentsYAML []byte // embedded

// Agent is a preset of a coding agent.
type Agent struct {
	Name        string            `yaml:"name"`
	Description string            `yaml:"description"`
	Run         []string          `yaml:"run"`     // commands that install it, in the guest
	Command     []string          `yaml:"command"` // argv of its no-questions mode
	Env         map[string]string `yaml:"env"`     // that the mode needs
	Presets     []string          `yaml:"presets"` // of the network
	Hosts       []string          `yaml:"hosts"`
	Secrets     []AgentSecret     `yaml:"secrets"` // its keys, by preference; it starts without as well
}

// AgentSecret is a key of an agent's: the variable that the agent reads and where it sends the value.
type AgentSecret struct {
	Name   string   `yaml:"name"`
	Hosts  []string `yaml:"hosts"`
	Header string   `yaml:"header"`
}

// Agents gives the built-in agents. An error means that sbx was built from a
// broken file.
func Agents() ([]Agent, error) {
	var agents []Agent
	if err := yaml.UnmarshalWithOptions(agentsYAML, &agents, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("built-in agents: %w", err)
	}
	return agents, nil
}

// FindAgent gives the agent of that name; the error suggests the nearest.
func FindAgent(name string) (Agent, error) {
	agents, err := Agents()
	if err != nil {
		return Agent{}, err
	}
	i := slices.IndexFunc(agents, func(a Agent) bool { return a.Name == name })
	if i >= 0 {
		return agents[i], nil
	}
	known := make([]string, len(agents))
	for i, a := range agents {
		known[i] = a.Name
	}
	return Agent{}, fmt.Errorf("unknown agent %q%s", cut(name), suggest(name, known))
}

// rules gives the hosts as rules. Like a network preset they are sbx's own word,
// and a user's deny goes before them.
func (a Agent) rules() []netfilter.Rule {
	rules := make([]netfilter.Rule, len(a.Hosts))
	for i, host := range a.Hosts {
		rules[i] = netfilter.Rule{
			Action: netfilter.Allow, Pattern: host + ":443",
			Origin: a.origin(),
		}
	}
	return rules
}

func (a Agent) origin() netfilter.Origin { return netfilter.Origin{Source: "agent:" + a.Name} }
