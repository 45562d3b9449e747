package guard

import "testing"

// TestEgress is the row of the guest's network that this package decides: the rules
// that lie in the workspace are not the guest's to write.
func TestEgress(t *testing.T) {
	m := builtin(t)
	for _, name := range []string{"sbx.yaml", "SBX.YAML", "sbx.yaml "} {
		t.Run("C4_"+name, func(t *testing.T) {
			if !m.Protected([]string{name}) {
				t.Error("the guest may write its own rules")
			}
		})
	}
}
