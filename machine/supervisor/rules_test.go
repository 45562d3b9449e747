package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/netfilter"
)

// sandboxFiles is a sandbox on disk that nobody runs.
func sandboxFiles(t *testing.T) *store.Sandbox {
	t.Helper()
	home := t.TempDir()
	st, err := store.Open(func(key string) string { return map[string]string{"SBX_HOME": home}[key] })
	if err != nil {
		t.Fatal(err)
	}
	files := st.Sandbox("shop")
	if err := files.WriteSpec(machine.Spec{Name: "shop", Project: home}); err != nil {
		t.Fatal(err)
	}
	return files
}

func patterns(v control.PolicyView) []string {
	var out []string
	for _, r := range v.Rules {
		out = append(out, string(r.Action)+" "+r.Pattern+" "+r.Origin.Source)
	}
	return out
}

// TestInvalidEdits: an edit that is wrong changes nothing, in memory or on disk, and says what is wrong.
func TestInvalidEdits(t *testing.T) {
	files := sandboxFiles(t)
	base := netfilter.Spec{
		Rules: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "a.test", Origin: netfilter.Origin{Source: "project"}}},
		Proxy: "http://user:password@proxy.test",
	}
	r, err := loadRules(files, base)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.edit(control.PolicyEdit{Add: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "good.test"}}}); err != nil {
		t.Fatal(err)
	}
	before, policy := patterns(r.view()), r.compiled()
	t.Run("C7_invalid_edit_keeps_the_old_rules", func(t *testing.T) {
		for what, edit := range map[string]control.PolicyEdit{
			"*.com":  {Add: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "fine.test"}, {Action: netfilter.Allow, Pattern: "*.com"}}},
			"never":  {Remove: []netfilter.Rule{{Pattern: "good.test"}, {Pattern: "never.test"}}},
			"a.test": {Remove: []netfilter.Rule{{Pattern: "a.test"}}},
		} {
			if err := r.edit(edit); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
			if got := patterns(r.view()); !slices.Equal(got, before) || r.compiled() != policy {
				t.Errorf("%s: the rules are %q", what, got)
			}
			if stored, err := files.ReadRules(); err != nil || len(stored) != 1 || stored[0].Pattern != "good.test" {
				t.Errorf("%s: on disk %v, %v", what, stored, err)
			}
		}
	})
	if v := r.view(); v.Spec.Proxy != "" {
		t.Error("the proxy's password is shown")
	}
}

// An answer holds while the sandbox runs; a rule of sbx policy holds after a restart as well.
func TestAnswersAreNotKept(t *testing.T) {
	files := sandboxFiles(t)
	r, err := loadRules(files, netfilter.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.answer("www.test", 443, true); err != nil {
		t.Fatal(err)
	}
	p, err := r.answer("db.test", 5432, false)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Decide(netfilter.Request{Name: "www.test", Port: 443}).Allow || p.Decide(netfilter.Request{Name: "www.test", Port: 80}).Allow {
		t.Error("the answer is for another port")
	}
	if v := p.Decide(netfilter.Request{Name: "db.test", Port: 5432}); v.Allow || v.Rule == nil || v.Rule.Pattern != "db.test:5432/tcp" {
		t.Errorf("%+v", v)
	}
	if err := r.edit(control.PolicyEdit{Add: []netfilter.Rule{{Action: netfilter.Allow, Pattern: "kept.test"}}}); err != nil {
		t.Fatal(err)
	}
	if got := patterns(r.view()); len(got) != 3 {
		t.Errorf("an edit dropped answers: %q", got)
	}
	again, err := loadRules(files, netfilter.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	if got := patterns(again.view()); !slices.Equal(got, []string{"allow kept.test runtime"}) {
		t.Errorf("after a restart: %q", got)
	}
}

// TestRulesAreOfOneForm: a rule is taken back however its name is written.
func TestRulesAreOfOneForm(t *testing.T) {
	r, err := loadRules(sandboxFiles(t), netfilter.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	add := func(pattern string) control.PolicyEdit {
		return control.PolicyEdit{Add: []netfilter.Rule{{Action: netfilter.Allow, Pattern: pattern}}}
	}
	for _, pattern := range []string{"API.Example.com", "api.example.com"} {
		if err := r.edit(add(pattern)); err != nil {
			t.Fatal(err)
		}
	}
	if got := patterns(r.view()); !slices.Equal(got, []string{"allow api.example.com runtime"}) {
		t.Errorf("%q", got)
	}
	if err := r.edit(control.PolicyEdit{Remove: []netfilter.Rule{{Pattern: "Api.Example.Com"}}}); err != nil {
		t.Error(err)
	}
}

// TestTheLastChangeIsInForce: changes reach the gateway in their order, whoever makes them at the same time.
func TestTheLastChangeIsInForce(t *testing.T) {
	r, err := loadRules(sandboxFiles(t), netfilter.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	var applied *netfilter.Policy
	r.apply = func(p *netfilter.Policy) { applied = p }
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			name := fmt.Sprintf("n%d.test", i)
			if err := r.edit(control.PolicyEdit{Add: []netfilter.Rule{{Action: netfilter.Allow, Pattern: name}}}); err != nil {
				t.Error(err)
			}
			if _, err := r.answer(name, 443, false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if applied == nil || applied != r.compiled() {
		t.Error("the gateway has another policy than the one that is shown")
	}
}
