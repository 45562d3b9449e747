package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

func newPolicy(a *app) *cobra.Command {
	return group("policy", "Show and change what the sandbox may reach", "  sbx policy ls\n  sbx policy allow api.example.com",
		newPolicyLs(a), newPolicyCheck(a), newPolicyLog(a), newPolicyPending(a), newPolicyApprove(a), newPolicyLearn(a),
		newPolicyEdit(a, netfilter.Allow), newPolicyEdit(a, netfilter.Deny), newPolicyRm(a))
}

// nameFlag is how policy's commands take the sandbox: their arguments are patterns.
func nameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "sandbox", "s", "", "the sandbox (default: this folder's)")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *name != "" {
			if err := validName(*name); err != nil {
				return err
			}
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

// policyView is what `sbx policy ls --json` prints.
type policyView struct {
	Default netfilter.Action `json:"default"`
	Rules   []netfilter.Rule `json:"rules"`
}

func newPolicyLs(a *app) *cobra.Command {
	var name string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the rules in force, the strongest first",
		Long: "Lists the rules that hold for the sandbox: of sbx.yaml, your own configuration, presets, and those\n" +
			"made with allow and deny. The first that matches a name decides.",
		Example: "  sbx policy ls\n  sbx policy ls -s shop --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			policy, err := a.policy(ctx, name)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, policyView{Default: policy.Default(), Rules: append([]netfilter.Rule{}, policy.Rules()...)})
			}
			var rows [][]string
			for _, rule := range policy.Rules() {
				rows = append(rows, []string{string(rule.Action), netfilter.CanonicalPattern(rule.Pattern), originText(rule.Origin)})
			}
			rows = append(rows, []string{string(policy.Default()), "anything else", "default"})
			return printTable(a.Out, []string{"ACTION", "PATTERN", "FROM"}, rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	nameFlag(cmd, &name)
	return cmd
}

func originText(origin netfilter.Origin) string {
	if origin.File == "" {
		return origin.Source
	}
	return fmt.Sprintf("%s %s:%d", origin.Source, origin.File, origin.Line)
}

// checked is what `sbx policy check --json` prints.
type checked struct {
	Name    string          `json:"name"`
	Port    uint16          `json:"port,omitempty"`
	Method  string          `json:"method,omitempty"`
	Path    string          `json:"path,omitempty"`
	Verdict string          `json:"verdict"`
	Reason  string          `json:"reason"`
	Rule    *netfilter.Rule `json:"rule,omitempty"`
}

func newPolicyCheck(a *app) *cobra.Command {
	var name, method, path string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check HOST[:PORT]", Short: "Say whether the sandbox may reach a name, and why",
		Long: "Says what the rules decide for a name, without asking anybody on the network. Without PORT: whether\n" +
			"any port of it is allowed. With --method or --path: about one HTTP request.\n\nExit status: 0 allowed, 1 denied or failed, 2 wrong usage.",
		Example: "  sbx policy check www.npmjs.org:443\n  sbx policy check github.com:443 --method POST --path /o/r.git/git-receive-pack",
		Args:    exactlyOne("HOST[:PORT]"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			request, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			if request.Method, request.Path, err = parseRequest(method, path); err != nil {
				return err
			}
			policy, err := a.policy(ctx, name)
			if err != nil {
				return err
			}
			return a.printVerdict(request, policy.Decide(request), asJSON)
		}),
	}
	cmd.Flags().StringVar(&method, "method", "", "of an HTTP request, such as GET; WEBSOCKET for one that becomes a WebSocket")
	cmd.Flags().StringVar(&path, "path", "", "of an HTTP request, such as /v1/models")
	jsonFlag(cmd, &asJSON)
	nameFlag(cmd, &name)
	return cmd
}

// parseRequest fills in what was left out of a request.
func parseRequest(method, path string) (string, string, error) {
	switch {
	case method == "" && path == "":
		return "", "", nil
	case method == "":
		method = "GET"
	case path == "":
		path = "/"
	}
	if !strings.HasPrefix(path, "/") {
		return "", "", usagef("--path %q: must begin with a slash", path)
	}
	if strings.ContainsFunc(method, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", "", usagef("--method %q: is no method of HTTP, such as GET", method)
	}
	return strings.ToUpper(method), path, nil
}

// parseTarget reads HOST or HOST:PORT as a person writes it.
func parseTarget(arg string) (netfilter.Request, error) {
	host, port := arg, ""
	if strings.Contains(arg, "://") {
		return netfilter.Request{}, usagef("%q is a URL: write HOST[:PORT], such as api.example.com:443", arg)
	}
	if strings.Contains(arg, ":") {
		var err error
		if host, port, err = net.SplitHostPort(arg); err != nil {
			return netfilter.Request{}, usagef("%q is not HOST[:PORT]: %w", arg, err)
		}
	}
	name, err := netfilter.Canonical(host)
	if err != nil {
		return netfilter.Request{}, usagef("%q: %w", host, err)
	}
	request := netfilter.Request{Name: name}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return netfilter.Request{}, usagef("%q is no port", port)
		}
		request.Port = uint16(n)
	}
	return request, nil
}

func (a *app) printVerdict(request netfilter.Request, verdict netfilter.Verdict, asJSON bool) error {
	c := checked{
		Name: request.Name, Port: request.Port, Method: request.Method, Path: request.Path,
		Verdict: audit.VerdictDeny, Reason: verdict.Reason, Rule: verdict.Rule,
	}
	if verdict.Allow {
		c.Verdict = audit.VerdictAllow
	}
	if asJSON {
		if err := printJSON(a.Out, c); err != nil {
			return err
		}
	} else {
		why := reasonText(c.Reason)
		if c.Rule != nil {
			why += fmt.Sprintf(": %s, %s", c.Rule.Pattern, originText(c.Rule.Origin))
		}
		if verdict.Ask {
			why += "; you would be asked"
		}
		what := strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Method, hostPort(c.Name, c.Port), c.Path))
		fmt.Fprintln(a.Out, printable(fmt.Sprintf("%s %s (%s)", c.Verdict, what, why)))
	}
	if !verdict.Allow {
		return exitError{status: statusFailed}
	}
	return nil
}

type policyLogOptions struct {
	app            *app
	name           string
	follow, denied bool
	asJSON         bool
	since          time.Duration
}

func newPolicyLog(a *app) *cobra.Command {
	o := policyLogOptions{app: a}
	cmd := &cobra.Command{
		Use: "log", Short: "Show what was asked of the network and what was decided",
		Example: "  sbx policy log --denied\n  sbx policy log -f --json",
		Args:    maxArgs(0, "no arguments"),
		RunE:    interruptible(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes later")
	cmd.Flags().BoolVar(&o.denied, "denied", false, "refusals alone")
	cmd.Flags().DurationVar(&o.since, "since", 0, "none older than this, such as 10m")
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o policyLogOptions) run(ctx context.Context) error {
	since, err := sinceTime(o.since)
	if err != nil {
		return err
	}
	box, err := o.app.existing(o.name)
	if err != nil {
		return err
	}
	options := audit.ReadOptions{Follow: o.follow, Denied: o.denied, Since: since}
	return audit.Read(ctx, box.files.NetLog(), options, func(entry audit.Entry) error {
		if o.asJSON {
			return printJSONLine(o.app.Out, entry)
		}
		_, err := fmt.Fprintln(o.app.Out, printable(entryText(entry)))
		return err
	})
}

// sinceTime reads --since; 0 is the beginning.
func sinceTime(ago time.Duration) (time.Time, error) {
	switch {
	case ago < 0:
		return time.Time{}, usagef("--since %v is in the future: give how long ago, such as 10m", ago)
	case ago == 0:
		return time.Time{}, nil
	}
	return time.Now().Add(-ago), nil
}

func entryText(e audit.Entry) string {
	text := fmt.Sprintf("%s  %-5s %-7s %s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Verdict, e.Kind, entryTarget(e))
	if e.Proto != "" {
		text += " " + e.Proto
	}
	if e.Method != "" {
		text += " " + e.Method + " " + e.Path
	}
	if why := reasonText(e.Reason); why != "" {
		text += " (" + why + ")"
	}
	if e.Rule != "" {
		text += fmt.Sprintf(" by %q, %s", e.Rule, e.Origin)
	}
	if e.Kind == audit.Close {
		text += fmt.Sprintf(", %d bytes up, %d down", e.BytesUp, e.BytesDown)
	}
	if e.Count > 1 {
		text += fmt.Sprintf(", %d times", e.Count)
	}
	return text
}

func entryTarget(e audit.Entry) string {
	switch {
	case e.Name != "" && e.Kind == audit.DNS:
		return e.Name
	case e.Name != "":
		return hostPort(e.Name, e.Port)
	default:
		return hostPort(e.Addr, e.Port)
	}
}

func newPolicyEdit(a *app, action netfilter.Action) *cobra.Command {
	var name string
	short, more := "Let the running sandbox reach a name", ""
	if action == netfilter.Deny {
		short = "Keep the running sandbox from a name"
		more = "\nA number is a question of `sbx policy pending`: the connections that wait are refused, and no rule is made."
	}
	cmd := &cobra.Command{
		Use: string(action) + " PATTERN…", Short: short,
		Long: short + ": api.example.com, *.example.org:443,8443 or github.com:22/tcp.\n" +
			"It holds at once, open connections included, until `sbx policy rm`. A rule that is wrong changes nothing." + more,
		Example: fmt.Sprintf("  sbx policy %s api.example.com\n  sbx policy %[1]s 'github.com:22/tcp' -s shop", action),
		Args:    atLeastOne("a PATTERN"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			if ids := questionNumbers(args); action == netfilter.Deny && ids != nil {
				return a.refuse(ctx, name, ids)
			}
			return a.editPolicy(ctx, name, edit{action: action, patterns: args})
		}),
	}
	nameFlag(cmd, &name)
	return cmd
}

func newPolicyRm(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "rm PATTERN…", Short: "Take back rules that allow and deny made",
		Long:    "Takes back rules that `sbx policy allow` and `deny` made. Those of files stand in the files.",
		Example: "  sbx policy rm api.example.com",
		Args:    atLeastOne("a PATTERN"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.editPolicy(ctx, name, edit{remove: true, patterns: args})
		}),
	}
	nameFlag(cmd, &name)
	return cmd
}

// edit is a change of the rules made at run time.
type edit struct {
	action   netfilter.Action
	remove   bool
	patterns []string
}

// exactlyOne and atLeastOne check the number of arguments.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s takes %s, got %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s takes %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// policy is what is in force: asked of the supervisor, or, of a sandbox that is
// down or not made yet, what the next start would have.
func (a *app) policy(ctx context.Context, name string) (*netfilter.Policy, error) {
	spec, err := a.networkSpec(ctx, name)
	if err != nil {
		return nil, err
	}
	policy, _, err := netfilter.Compile(spec)
	return policy, err
}

func (a *app) networkSpec(ctx context.Context, name string) (netfilter.Spec, error) {
	box, err := a.existing(name)
	if none := (noSandbox{}); name == "" && errors.As(err, &none) {
		config, err := a.loadConfig(nil)
		if err != nil {
			return netfilter.Spec{}, err
		}
		return config.Network, nil
	}
	if err != nil {
		return netfilter.Spec{}, err
	}
	client, err := control.Dial(ctx, box.files.ControlSocket())
	if err == nil {
		defer client.Close() //nolint:errcheck // only idle connections are left
		view, err := client.Policy(ctx)
		return view.Spec, err
	}
	// What the files say now, not what they said at the last start.
	config, err := a.loadConfigOf(box.spec.Project, nil)
	if err != nil {
		return netfilter.Spec{}, err
	}
	rules, err := box.files.ReadRules()
	spec := config.Network
	spec.Rules = append(slices.Clone(spec.Rules), rules...)
	return spec, err
}

// editPolicy changes the rules of a running sandbox.
func (a *app) editPolicy(ctx context.Context, name string, change edit) error {
	box, err := a.running(ctx, name)
	if err != nil {
		return err
	}
	defer box.close()
	var request control.PolicyEdit
	for _, pattern := range change.patterns {
		rule := netfilter.Rule{Action: change.action, Pattern: pattern, Origin: netfilter.Origin{Source: "runtime"}}
		if change.remove {
			request.Remove = append(request.Remove, rule)
		} else {
			request.Add = append(request.Add, rule)
		}
	}
	view, err := box.client.EditPolicy(ctx, request)
	if err != nil {
		return err
	}
	for _, warning := range view.Warnings {
		if mentions(warning, request.Add) {
			a.warn(warning)
		}
	}
	for _, rule := range request.Add {
		if text := bytesMeant(rule); text != "" {
			a.warn(text)
		}
	}
	return nil
}

// bytesMeant says how an allow rule is written whose ports are, by their numbers, of other protocols than the web's:
// on a port without /tcp nothing but TLS and HTTP passes.
func bytesMeant(rule netfilter.Rule) string {
	host, ports, ok := strings.Cut(rule.Pattern, ":")
	if !ok || rule.Action != netfilter.Allow || len(rule.Methods)+len(rule.Paths) > 0 {
		return ""
	}
	items, found := strings.Split(ports, ","), false
	for i, item := range items {
		if port, err := strconv.ParseUint(item, 10, 16); err == nil && !webPort(uint16(port)) {
			items[i], found = item+"/tcp", true
		}
	}
	if !found {
		return ""
	}
	// The stricter of the two would decide.
	return fmt.Sprintf("%q lets TLS and HTTP pass alone; for other protocols, such as SSH: sbx policy rm %s && sbx policy allow %s:%s",
		rule.Pattern, rule.Pattern, host, strings.Join(items, ","))
}

// mentions keeps the warnings about other rules, which were shown before, quiet.
func mentions(warning string, added []netfilter.Rule) bool {
	return slices.ContainsFunc(added, func(r netfilter.Rule) bool {
		return strings.Contains(warning, strconv.Quote(netfilter.CanonicalPattern(r.Pattern)))
	})
}
