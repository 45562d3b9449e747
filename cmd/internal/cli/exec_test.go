package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbx-vm/sbx/machine"
)

func TestExecParse(t *testing.T) {
	tests := map[string]struct {
		args []string
		dash int
		name string
		argv []string
		err  string // part of the message and hint
	}{
		"command":         {args: []string{"ls", "-l"}, dash: 0, argv: []string{"ls", "-l"}},
		"name":            {args: []string{"shop", "ls"}, dash: 1, name: "shop", argv: []string{"ls"}},
		"dashes pass":     {args: []string{"sh", "--", "x"}, dash: 0, argv: []string{"sh", "--", "x"}},
		"empty argument":  {args: []string{"printf", ""}, dash: 0, argv: []string{"printf", ""}},
		"no dash":         {args: []string{"ls", "src"}, dash: -1, err: "sbx exec -- ls src"},
		"nothing":         {dash: -1, err: "no command"},
		"nothing after":   {args: []string{"shop"}, dash: 1, err: "no command after --"},
		"two names":       {args: []string{"a", "b", "ls"}, dash: 2, err: "one NAME"},
		"not a name":      {args: []string{"Shop", "ls"}, dash: 1, err: "Shop"},
		"an option in it": {args: []string{"-", "ls"}, dash: 1, err: "\"-\""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var o execOptions
			err := o.parse(test.args, test.dash)
			if test.err != "" {
				if err == nil || exitStatus(err) != statusUsage || !strings.Contains(err.Error()+hintOf(err), test.err) {
					t.Fatalf("error %v (hint %q, status %d), want one with %q", err, hintOf(err), exitStatus(err), test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if o.name != test.name || !cmp.Equal(o.argv, test.argv) {
				t.Errorf("got %q %q", o.name, o.argv)
			}
		})
	}
}

func TestExecEnvironment(t *testing.T) {
	o := execOptions{app: &app{Streams: Streams{Env: []string{"HERE=old", "HERE=yes"}}}, env: []string{"A=1=2", "B=", "HERE", "NONE"}}
	env, err := o.environment()
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"A": "1=2", "B": "", "HERE": "yes", "NONE": ""}; !cmp.Equal(env, want) {
		t.Error(cmp.Diff(want, env))
	}
	for _, bad := range []string{"", "=x", "A=\x00"} {
		o.env = []string{bad}
		if _, err := o.environment(); exitStatus(err) != statusUsage {
			t.Errorf("-e %q: %v", bad, err)
		}
	}
}

func TestWorkdir(t *testing.T) {
	spec := machine.Spec{
		Project:   "/home/a/shop",
		Workspace: machine.Workspace{Target: "/w", Mounts: []machine.Mount{{Source: "/home/a/design", Target: "/design"}}},
	}
	for _, test := range []struct{ cwd, flag, want string }{
		{"/home/a/shop", "", "/w"},
		{"/home/a/shop/src/x", "", "/w/src/x"},
		{"/home/a/shop2", "", "/w"},
		{"/home/a/design/y", "", "/design/y"},
		{"/", "", "/w"},
		{"/home/a/shop/..odd", "", "/w/..odd"},
		{"/home/a/shop", "/tmp/../var", "/var"},
		{"/home/a/shop/src", "lib", "/w/lib"},
	} {
		o := execOptions{app: &app{Streams: Streams{Dir: test.cwd}}, dir: test.flag}
		if got := o.workdir(spec); got != test.want {
			t.Errorf("in %q with -w %q: %q, want %q", test.cwd, test.flag, got, test.want)
		}
	}
}
