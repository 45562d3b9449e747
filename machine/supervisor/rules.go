package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/netfilter"
)

// rules are the network's: those of the files, which do not change while a
// sandbox runs, and those of `sbx policy`, which do.
type rules struct {
	files *store.Sandbox
	base  netfilter.Spec

	apply func(*netfilter.Policy) // makes it the gateway's, nil before there is one; in the order of the changes, so under mu

	mu       sync.Mutex
	runtime  []netfilter.Rule
	answers  []netfilter.Rule // to questions, for as long as the sandbox runs
	policy   *netfilter.Policy
	warnings []netfilter.Warning
}

func loadRules(files *store.Sandbox, base netfilter.Spec) (*rules, error) {
	r := &rules{files: files, base: base}
	runtime, err := files.ReadRules()
	if err != nil {
		return nil, err
	}
	r.policy, r.warnings, err = r.compile(runtime, nil)
	r.runtime = runtime
	return r, err
}

func (r *rules) compile(runtime, answers []netfilter.Rule) (*netfilter.Policy, []netfilter.Warning, error) {
	return netfilter.Compile(r.spec(runtime, answers))
}

func (r *rules) spec(runtime, answers []netfilter.Rule) netfilter.Spec {
	spec := r.base
	spec.Rules = slices.Concat(r.base.Rules, runtime, answers)
	return spec
}

func (r *rules) compiled() *netfilter.Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

func (r *rules) view() control.PolicyView {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := control.PolicyView{Default: r.policy.Default(), Rules: r.policy.Rules(), Spec: r.spec(r.runtime, r.answers)}
	v.Spec.Proxy = "" // may hold a password
	for _, w := range r.warnings {
		v.Warnings = append(v.Warnings, w.String())
	}
	return v
}

// edit changes the runtime rules, on disk first: a rule that took effect is there
// after a restart. Anything wrong with the edit leaves all as it was.
func (r *rules) edit(e control.PolicyEdit) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	runtime := slices.Clone(r.runtime)
	for _, gone := range e.Remove {
		gone.Pattern = netfilter.CanonicalPattern(gone.Pattern)
		kept := slices.DeleteFunc(slices.Clone(runtime), func(x netfilter.Rule) bool {
			return netfilter.CanonicalPattern(x.Pattern) == gone.Pattern && (gone.Action == "" || x.Action == gone.Action)
		})
		if len(kept) == len(runtime) {
			return fmt.Errorf("no rule %q was made by sbx policy: rules of files are changed there", gone.Pattern)
		}
		runtime = kept
	}
	for _, add := range e.Add {
		add.Origin, add.Pattern = netfilter.Origin{Source: "runtime"}, netfilter.CanonicalPattern(add.Pattern)
		if !slices.ContainsFunc(runtime, func(x netfilter.Rule) bool { return x.Pattern == add.Pattern && x.Action == add.Action }) {
			runtime = append(runtime, add)
		}
	}
	policy, warnings, err := r.compile(runtime, r.answers)
	if err != nil {
		return err
	}
	if err := r.files.WriteRules(runtime); err != nil {
		return errors.Join(err, errors.New("the rules are as they were"))
	}
	r.runtime, r.policy, r.warnings = runtime, policy, warnings
	r.enforce()
	return nil
}

// answer makes the user's word on a name and port hold for as long as the sandbox runs.
func (r *rules) answer(name string, port uint16, allow bool) (*netfilter.Policy, error) {
	rule := netfilter.Rule{Action: netfilter.Deny, Pattern: netfilter.PatternFor(name, port), Origin: netfilter.Origin{Source: "answer"}}
	if allow {
		rule.Action = netfilter.Allow
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	answers := append(r.answers[:len(r.answers):len(r.answers)], rule)
	policy, warnings, err := r.compile(r.runtime, answers)
	if err != nil {
		return nil, err
	}
	r.answers, r.policy, r.warnings = answers, policy, warnings
	r.enforce()
	return policy, nil
}

func (r *rules) enforce() {
	if r.apply != nil {
		r.apply(r.policy)
	}
}
