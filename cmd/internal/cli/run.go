package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/secret"
)

type runOptions struct {
	app   *app
	agent string
	args  []string // for the agent, after its own
	flags map[string]string
}

func newRun(a *app) *cobra.Command {
	o := runOptions{app: a}
	cmd := &cobra.Command{
		Use:   "run AGENT [-- ARGS…]",
		Short: "Start a coding agent in the sandbox of this folder",
		Long: "Starts the sandbox of this folder as `sbx up --agent AGENT` does, and in it the agent, in the mode\n" +
			"that asks no questions, with ARGS after its own. The first time the agent is installed, into an image\n" +
			"that all its sandboxes share. The agent's hosts are allowed. Its key is asked for once and kept as a\n" +
			"secret: the guest sees a placeholder, and the value is put into requests to the agent's own hosts.\n" +
			"Without a key the agent starts as well, and may log in itself.\n\n" +
			agentsHelp() + "\n" + execStatusHelp,
		Example: "  sbx run claude\n  sbx run codex -- exec 'fix the tests'\n  sbx run shell",
		Args: func(cmd *cobra.Command, args []string) error {
			return o.parse(args, cmd.ArgsLenAtDash())
		},
	}
	settingFlags(cmd.Flags())
	cmd.Flags().Lookup("agent").Hidden = true // it is the argument
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("agent") {
			return usagef("run takes the agent as its argument: sbx run %s", o.agent)
		}
		o.flags = givenSettings(cmd.Flags())
		o.flags["agent"] = o.agent
		return o.run(cmd, args)
	}
	return cmd
}

// agentsHelp lists the agents.
func agentsHelp() string {
	agents, err := configs.Agents()
	if err != nil {
		return ""
	}
	var text strings.Builder
	text.WriteString("Agents:\n")
	for _, agent := range agents {
		fmt.Fprintf(&text, "  %-9s %s\n", agent.Name, agent.Description)
	}
	return text.String()
}

// parse splits AGENT -- ARGS…; dash is the number of arguments before --, or -1.
func (o *runOptions) parse(args []string, dash int) error {
	if dash < 0 {
		dash = len(args)
	}
	switch {
	case dash == 0:
		return usageError{hintf(usagef("run: no agent given"), "try: sbx run claude")}
	case dash > 1:
		return usageError{hintf(usagef("run takes one AGENT before --, not %q", args[:dash]), "arguments of the agent stand after --: sbx run %s -- %s",
			args[0], strings.Join(args[1:dash], " "))}
	}
	o.agent, o.args = args[0], args[dash:]
	if _, err := configs.FindAgent(o.agent); err != nil {
		return usageError{err}
	}
	return nil
}

// run starts the sandbox and attaches to the agent. An interrupt ends the first; in
// the second it is the agent's.
func (o runOptions) run(cmd *cobra.Command, args []string) error {
	agent, err := configs.FindAgent(o.agent)
	if err != nil {
		return err
	}
	var name string
	up := interruptible(func(ctx context.Context, _ []string) (err error) {
		name, err = o.up(ctx, agent)
		return err
	})
	if err := up(cmd, args); errors.Is(err, errInterrupted) {
		return err
	} else if err != nil {
		return exitError{statusSbx, err}
	}
	box, err := o.app.running(cmd.Context(), name)
	if err != nil {
		return exitError{statusSbx, err}
	}
	defer box.close()
	how := attachment{stdin: true}
	if id, err := box.client.Checkpoint(cmd.Context(), "run "+agent.Name); err != nil {
		o.app.warn(fmt.Sprintf("no checkpoint to come back to: %v", err))
	} else {
		how.ended = func() { o.app.reportHanded(cmd.Context(), box, id) }
	}
	request := control.ExecRequest{
		Argv: slices.Concat(agent.Command, o.args), Dir: guestDir(box.spec, o.app.Dir), Env: agent.Env,
	}
	return o.app.attach(cmd.Context(), box, request, how)
}

// up asks for a key that is missing and starts this folder's sandbox as `sbx up` does.
func (o runOptions) up(ctx context.Context, agent configs.Agent) (name string, err error) {
	up := upOptions{app: o.app, flags: o.flags}
	p, err := up.plan()
	if err != nil {
		return "", err
	}
	if o.app.canAsk() && len(agent.Secrets) > 0 {
		if err := o.app.askKey(ctx, p, agent); err != nil {
			return "", err
		}
	}
	return p.wanted.Name, up.run(ctx)
}

// askKey asks for the agent's preferred key where none of its keys has a value.
func (a *app) askKey(ctx context.Context, p *plan, agent configs.Agent) error {
	secrets, err := a.secrets()
	if err != nil {
		return err
	}
	var wanted []secret.Wanted
	for _, s := range p.wanted.Network.Secrets {
		if slices.ContainsFunc(agent.Secrets, func(key configs.AgentSecret) bool { return key.Name == s.Name }) {
			wanted = append(wanted, secret.Wanted{Name: s.Name, Hosts: s.Hosts})
		}
	}
	values, err := secret.Resolve(ctx, secrets, wanted, p.wanted.Secrets, a.getenv)
	if err != nil || len(values) > 0 {
		return err
	}
	key := agent.Secrets[0]
	notice := "key-" + key.Name
	if _, err := os.Stat(p.store.NoticeFile(notice)); err == nil {
		return nil
	}
	fd, _ := terminal(a.In)
	value, err := a.askHidden(ctx, fd, key.Name+" (kept as a secret, for "+strings.Join(key.Hosts, ", ")+"; Enter for none): ")
	if err != nil {
		return err
	}
	if value == "" {
		// Enter alone is an answer: the user logs in inside, and is not asked again on this host. An
		// interrupt, or a value that cannot be kept, is none.
		_, err := a.first(p.store, notice)
		return err
	}
	// Kept for these hosts alone: no other project's file can lead it elsewhere.
	return a.keepSecret(ctx, key.Name, value, key.Hosts) // a sandbox may run already
}
