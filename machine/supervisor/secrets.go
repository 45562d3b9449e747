package supervisor

import (
	"context"
	"slices"
	"sync"

	"github.com/sbx-vm/sbx/machine/secret"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// secrets are the values that the gateway puts into requests. They are in this process' memory and nowhere
// else: not in the guest, not in a file of the sandbox's, not in a log.
type secrets struct {
	s *Supervisor

	mu     sync.Mutex
	values map[string]secret.Value
}

// load finds the values of what the sandbox's configuration names. The error is about those that could not
// be found out; the others are there.
func (x *secrets) load(ctx context.Context) error {
	var wanted []secret.Wanted
	for _, s := range x.s.spec.Network.Secrets {
		wanted = append(wanted, secret.Wanted{Name: s.Name, Hosts: s.Hosts})
	}
	values, err := secret.Resolve(ctx, secretStore(x.s.o), wanted, x.s.spec.Secrets, x.s.o.Getenv)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.values = values
	return err
}

func secretStore(o Options) *secret.Store {
	return secret.Open(o.Store.DataDir(), o.Getenv("SBX_HOME") == "")
}

// vault is what the gateway gets.
func (x *secrets) vault() *intercept.Vault {
	x.mu.Lock()
	defer x.mu.Unlock()
	var bindings []intercept.Binding
	for _, s := range x.s.spec.Network.Secrets {
		bindings = append(bindings, intercept.Binding{Secret: s, Value: x.values[s.Name].Value})
	}
	return intercept.NewVault(bindings)
}

// environment is what the guest has: a placeholder for each secret that has a value.
func (x *secrets) environment() map[string]string {
	x.mu.Lock()
	defer x.mu.Unlock()
	env := map[string]string{}
	for _, s := range x.s.spec.Network.Secrets {
		if x.values[s.Name].Value != "" {
			env[s.Name] = s.Placeholder
		}
	}
	return env
}

// missing are the names of those without a value.
func (x *secrets) missing() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	names := []string{}
	for _, s := range x.s.spec.Network.Secrets {
		if x.values[s.Name].Value == "" {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
