package configs

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/netfilter"
)

// TestEgress is the rows of the guest's network that the files decide.
func TestEgress(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"N8_star":            {"network: {allow: [\"*\"]}\n", "names no domain"},
		"N8_two_stars":       {"network: {allow: [\"**\"]}\n", "default: allow"},
		"N8_top_level":       {"network: {allow: [\"*.com\"]}\n", "public suffix"},
		"N8_public_suffix":   {"network: {allow: [\"*.co.uk\"]}\n", "public suffix"},
		"N8_star_within":     {"network: {allow: [\"ex*mple.com\"]}\n", "a star stands only"},
		"N8_star_before":     {"network: {allow: [\"*example.com\"]}\n", "a star stands only"},
		"N8_dot_before":      {"network: {allow: [\".example.com\"]}\n", "begins with a dot"},
		"C2_typo":            {"network: {alow: [a.example.com]}\n", `unknown key "network.alow"`},
		"C12_no_audit_mode":  {"network: {default: audit}\n", "must be deny or allow"},
		"C2_unknown":         {"network: {enforcement: audit}\n", "unknown key"},
		"C2_typo_of_section": {"nets: {allow: []}\n", "unknown key"},
		"C3_rule_in_a_text":  {"network: {allow: [\"example.com\\n - '**'\"]}\n", "a star stands only"},
		"C3_anchor":          {"network: {allow: &a [a.example.com]}\n", "an anchor"},
		"C3_alias":           {"network: {allow: [a.example.com], deny: *a}\n", "an alias"},
		"C3_merge":           {"network:\n  <<: {allow: [a.example.com]}\n", "a merge key"},
		"C3_duplicate":       {"network: {deny: [\"a.example.com\"], deny: []}\n", "duplicate key"},
		"C3_no_for_false":    {"docker: {enabled: no}\n", "must be true or false"},
		"C3_octal_port":      {"network: {allow: [\"a.example.com:0o17\"]}\n", "must be a number"},
		"C3_underscore_port": {"network: {allow: [\"a.example.com:1_000\"]}\n", "must be a number"},
		"C3_exponent_port":   {"network: {allow: [\"a.example.com:1e3\"]}\n", "must be a number"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.yaml)
			if text := w.problems().Error(); !strings.Contains(text, tc.want) {
				t.Errorf("no word of %q in:\n%s", tc.want, text)
			}
		})
	}
	t.Run("C1_no_list", func(t *testing.T) {
		for _, yaml := range []string{"", "network: {}\n", "network: {allow: []}\n"} {
			policy, _, err := netfilter.Compile(newWorld(t, yaml).load().Network)
			if err != nil {
				t.Fatal(err)
			}
			if v := policy.Decide(netfilter.Request{Name: "example.com", Port: 443}); v.Allow {
				t.Errorf("%q allows: %+v", yaml, v)
			}
		}
	})
	t.Run("C4_the_projects_file_widens_nothing_alone", projectWidensNothing)
}

// projectWidensNothing: what a project's file adds waits for the user's consent, and opens
// nothing that the user closed. (The guest cannot write the file: sync/guard.)
func projectWidensNothing(t *testing.T) {
	w := newWorld(t, "network: {allow: [a.example.com, closed.example.com]}\n")
	w.user("network: {deny: [closed.example.com]}\n")
	c := w.load()
	if trusted, err := (Trust{filepath.Join(t.TempDir(), "trust.json")}).Trusted(c); err != nil || trusted {
		t.Errorf("trusted without a word of the user: %v, %v", trusted, err)
	}
	policy, _, err := netfilter.Compile(c.Network)
	if err != nil {
		t.Fatal(err)
	}
	if v := policy.Decide(netfilter.Request{Name: "closed.example.com", Port: 443}); v.Allow {
		t.Errorf("the project opened what the user closed: %+v", v)
	}
}
