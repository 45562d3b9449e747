package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/netfilter"
)

type pendingOptions struct {
	app            *app
	name           string
	follow, asJSON bool
}

func newPolicyPending(a *app) *cobra.Command {
	o := pendingOptions{app: a}
	cmd := &cobra.Command{
		Use: "pending", Short: "List connections that wait for your answer",
		Long: "Lists the names that the sandbox asks for and no rule covers (network.ask in sbx.yaml). Without an answer\n" +
			"they are refused when their time is over. While a program has your terminal, as in sbx run and sbx shell, the\n" +
			"bell and the window's title tell of them.",
		Example: "  sbx policy pending\n  sbx policy approve www.example.com:443 --run",
		Args:    maxArgs(0, "no arguments"),
		RunE:    interruptible(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes later")
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o pendingOptions) run(ctx context.Context) error {
	box, err := o.app.running(ctx, o.name)
	if err != nil {
		return err
	}
	defer box.close()
	if !o.follow {
		pending, err := box.client.Pending(ctx)
		if err != nil {
			return err
		}
		return o.print(pending.Questions)
	}
	told := map[uint64]bool{}
	for seen := uint64(0); ; {
		pending, err := box.client.WaitPending(ctx, seen)
		if err != nil {
			return err
		}
		fresh := slices.DeleteFunc(pending.Questions, func(q control.Question) bool { return told[q.ID] })
		for _, q := range fresh {
			told[q.ID] = true
			if err := o.tell(ctx, box, q); err != nil {
				return err
			}
		}
		seen = pending.Seen
	}
}

// tell prints a question; on a terminal it also takes the answer, which is no unless it is spelled.
func (o pendingOptions) tell(ctx context.Context, box *sandbox, q control.Question) error {
	if o.asJSON {
		return printJSONLine(o.app.Out, q)
	}
	if !o.app.canAsk() {
		_, err := fmt.Fprintln(o.app.Out, printable(questionText(q)))
		return err
	}
	text := fmt.Sprintf("%s wants out of sandbox %s. [o]nce, this [r]un, [w]rite to sbx.yaml, [N]o?", hostPort(q.Name, q.Port), box.name)
	answer := control.Answer{ID: q.ID, Allow: true, Scope: control.ScopeRun}
	write := false
	word, err := o.app.askWord(ctx, text)
	if err != nil {
		return err
	}
	switch word {
	case "o", "once":
		answer.Scope = control.ScopeOnce
	case "r", "run":
	case "w", "write":
		write = true
	default:
		answer.Allow, answer.Scope = false, control.ScopeOnce
	}
	if err := box.client.Answer(ctx, answer); err != nil {
		o.app.warn(fmt.Sprintf("%s: %v", hostPort(q.Name, q.Port), err))
		return nil
	}
	if write {
		return o.app.writeRules(ctx, box.spec.Project, []string{netfilter.PatternFor(q.Name, q.Port)})
	}
	return nil
}

// tellQuestions says on stderr what the command that runs waits for, until ctx ends.
func (a *app) tellQuestions(ctx context.Context, box *sandbox) {
	told := map[uint64]bool{}
	for seen := uint64(0); ; {
		pending, err := box.client.WaitPending(ctx, seen)
		if err != nil {
			return
		}
		for _, q := range pending.Questions {
			if !told[q.ID] {
				told[q.ID] = true
				a.tellQuestion(q)
			}
		}
		seen = pending.Seen
	}
}

func (a *app) tellQuestion(q control.Question) {
	fmt.Fprintln(a.Err, printable(fmt.Sprintf("sbx: %s wants out and waits %s for: sbx policy approve %d (or deny %[3]d)",
		hostPort(q.Name, q.Port), time.Until(q.Until).Round(time.Second), q.ID)))
}

func (o pendingOptions) print(questions []control.Question) error {
	if o.asJSON {
		return printJSON(o.app.Out, questions)
	}
	var rows [][]string
	for _, q := range questions {
		rows = append(rows, []string{strconv.FormatUint(q.ID, 10), printable(hostPort(q.Name, q.Port)), strconv.Itoa(q.Count),
			time.Until(q.Until).Round(time.Second).String()})
	}
	return printTable(o.app.Out, []string{"ID", "NAME", "CONNECTIONS", "LEFT"}, rows)
}

func questionText(q control.Question) string {
	return fmt.Sprintf("%d  %s wants out (%d waiting, until %s)", q.ID, hostPort(q.Name, q.Port), q.Count, q.Until.Local().Format(time.TimeOnly))
}

type approveOptions struct {
	app              *app
	name             string
	once, run, write bool
}

func newPolicyApprove(a *app) *cobra.Command {
	o := approveOptions{app: a}
	cmd := &cobra.Command{
		Use: "approve ID|HOST[:PORT]", Short: "Let connections that wait go on",
		Long: "Answers yes to a question of `sbx policy pending`: for the connections that wait (--once, what holds without\n" +
			"a flag), for as long as the sandbox runs (--run), or by a rule in the project's sbx.yaml (--write).",
		Example: "  sbx policy approve 3\n  sbx policy approve www.example.com:443 --write",
		Args:    exactlyOne("an ID or HOST[:PORT]"),
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.answer(ctx, args[0]) }),
	}
	cmd.Flags().BoolVar(&o.once, "once", false, "for the connections that wait alone")
	cmd.Flags().BoolVar(&o.run, "run", false, "for as long as the sandbox runs")
	cmd.Flags().BoolVar(&o.write, "write", false, "write a rule to sbx.yaml")
	nameFlag(cmd, &o.name)
	return cmd
}

func (o approveOptions) answer(ctx context.Context, which string) error {
	if o.once && (o.run || o.write) || o.run && o.write {
		return usagef("--once, --run and --write exclude each other")
	}
	box, err := o.app.running(ctx, o.name)
	if err != nil {
		return err
	}
	defer box.close()
	questions, err := o.questions(ctx, box, which)
	if err != nil {
		return err
	}
	scope := control.ScopeOnce
	if o.run || o.write {
		scope = control.ScopeRun
	}
	var errs []error
	for _, q := range questions {
		err := box.client.Answer(ctx, control.Answer{ID: q.ID, Allow: true, Scope: scope})
		if err == nil && o.write {
			err = o.app.writeRules(ctx, box.spec.Project, []string{netfilter.PatternFor(q.Name, q.Port)})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// questionNumbers reads arguments that are numbers of questions, nil if one is not.
func questionNumbers(args []string) []uint64 {
	var ids []uint64
	for _, arg := range args {
		id, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return nil
		}
		ids = append(ids, id)
	}
	return ids
}

// refuse answers no to questions.
func (a *app) refuse(ctx context.Context, name string, ids []uint64) error {
	box, err := a.running(ctx, name)
	if err != nil {
		return err
	}
	defer box.close()
	var errs []error
	for _, id := range ids {
		if err := box.client.Answer(ctx, control.Answer{ID: id, Scope: control.ScopeOnce}); err != nil {
			errs = append(errs, hintf(fmt.Errorf("question %d: %w", id, err), "see: sbx policy pending"))
		}
	}
	return errors.Join(errs...)
}

// questions finds those that were meant: by number, or by name with or without port.
func (o approveOptions) questions(ctx context.Context, box *sandbox, which string) ([]control.Question, error) {
	pending, err := box.client.Pending(ctx)
	if err != nil {
		return nil, err
	}
	id, notNumber := strconv.ParseUint(which, 10, 64)
	var request netfilter.Request
	if notNumber != nil {
		if request, err = parseTarget(which); err != nil {
			return nil, err
		}
	}
	found := slices.DeleteFunc(pending.Questions, func(q control.Question) bool {
		if notNumber == nil {
			return q.ID != id
		}
		return q.Name != request.Name || request.Port != 0 && q.Port != request.Port
	})
	if len(found) == 0 {
		return nil, hintf(fmt.Errorf("nothing that waits is %q", which), "see: sbx policy pending (a rule for later is made by: sbx policy allow)")
	}
	return found, nil
}

// writeRules appends allow rules to the project's file, with its comments kept. Who types the command is
// who would be asked for consent; so what was agreed to before goes on to hold. Two commands that write wait
// for each other, or the rules of one would be lost.
func (a *app) writeRules(ctx context.Context, project string, patterns []string) error {
	trust, err := a.trustStore()
	if err != nil {
		return err
	}
	lock := flock.New(trust.Path+".rules", flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	defer lock.Close() //nolint:errcheck // the lock goes with the descriptor at the latest
	config, err := a.loadConfigOf(project, nil)
	if err != nil {
		return err
	}
	trusted, err := trust.Trusted(config)
	if err != nil {
		return err
	}
	path := config.File
	if path == "" {
		path = filepath.Join(project, configs.FileName)
	}
	if err := appendRules(path, patterns); err != nil {
		return err
	}
	if config, err = a.loadConfigOf(project, nil); err != nil || !trusted {
		return err
	}
	return trust.Grant(config)
}

func appendRules(path string, patterns []string) error {
	mode := fs.FileMode(0o644)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	changed, err := configs.AppendAllow(old, patterns)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return renameio.WriteFile(path, changed, mode)
}
