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
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/journal"
)

// workspaceExport is the workspace's name in the file server's journal, see machine/supervisor.
const workspaceExport = "workspace"

// kept is a sandbox's journal of the workspace.
type kept struct {
	box         *sandbox
	dir         string
	checkpoints []journal.Checkpoint
}

func (a *app) journalOf(name string) (*kept, error) {
	box, err := a.existing(name)
	if err != nil {
		return nil, err
	}
	return keptOf(box)
}

func keptOf(box *sandbox) (k *kept, err error) {
	k = &kept{box: box, dir: box.files.JournalDir()}
	k.checkpoints, err = journal.Checkpoints(k.dir)
	if err == nil && len(k.checkpoints) == 0 {
		err = hintf(fmt.Errorf("sandbox %q has no checkpoint yet", box.name), "one is made at every: sbx up")
		if spec, broken := box.files.ReadSpec(); broken == nil && spec.Workspace.Server == machine.ServerVirtiofsd {
			err = hintf(fmt.Errorf("sandbox %q keeps no journal: virtiofsd serves its workspace", box.name), "take workspace.server out of your own config.yaml")
		}
	}
	return k, err
}

// beforeUndo begins the label of the checkpoint that an undo makes, so that it knows what the guest does meanwhile.
const beforeUndo = "before undo to "

// since is the checkpoint that was asked for, else the latest that no undo made: an undo that was interrupted is
// finished by the next.
func (k *kept) since(id int) (int, error) {
	if id == 0 {
		for _, c := range slices.Backward(k.checkpoints) {
			if !c.Undo && !strings.HasPrefix(c.Label, beforeUndo) {
				return c.ID, nil
			}
		}
	}
	if !slices.ContainsFunc(k.checkpoints, func(c journal.Checkpoint) bool { return c.ID == id }) {
		return 0, hintf(fmt.Errorf("there is no checkpoint %d", id), "see: sbx checkpoint ls")
	}
	return id, nil
}

// open reads the history since a checkpoint and opens the workspace. The caller closes the root.
func (k *kept) open(id int) (*journal.History, *os.Root, error) {
	history, err := journal.Read(k.dir, workspaceExport, id)
	if err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(k.box.spec.Project)
	return history, root, err
}

// splitCheckpoint takes the number of a checkpoint off the arguments, 0 if there is none.
func splitCheckpoint(args []string) (int, []string) {
	if len(args) > 0 {
		if id, err := strconv.Atoi(args[0]); err == nil && id > 0 {
			return id, args[1:]
		}
	}
	return 0, args
}

// inProject turns paths as they are typed into paths below the project.
func (a *app) inProject(project string, typed []string) ([]string, error) {
	var out []string
	for _, p := range typed {
		full := p
		if !filepath.IsAbs(full) {
			full = filepath.Join(a.Dir, full)
		}
		rel, err := filepath.Rel(project, full)
		if err != nil || !filepath.IsLocal(rel) {
			return nil, usagef("%q is not in %s", p, project)
		}
		if rel == "." {
			return nil, nil // all of it
		}
		out = append(out, filepath.ToSlash(rel))
	}
	return out, nil
}

type undoOptions struct {
	app    *app
	name   string
	asJSON bool
}

func newUndo(a *app) *cobra.Command {
	o := undoOptions{app: a}
	cmd := &cobra.Command{
		Use: "undo [CHECKPOINT] [PATH…]", Short: "Take back what the guest did to your files",
		Long: "Puts the workspace back as it was at a checkpoint (the latest one, if none is named), without git and for ignored\n" +
			"files too. What you changed yourself since stays; where that is in the way, the version before is put\n" +
			"beside it. The undo itself can be taken back: it prints how.",
		Example: "  sbx undo\n  sbx undo 3 src docs/notes.md",
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.run(ctx, args) }),
	}
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o undoOptions) run(ctx context.Context, args []string) error {
	k, err := o.app.journalOf(o.name)
	if err != nil {
		return err
	}
	id, typed := splitCheckpoint(args)
	if id, err = k.since(id); err != nil {
		return err
	}
	paths, err := o.app.inProject(k.box.spec.Project, typed)
	if err != nil {
		return err
	}
	// What the guest does from now on belongs to a checkpoint of its own.
	if err := checkpointIfRunning(ctx, k.box, fmt.Sprintf("%s%d", beforeUndo, id)); err != nil {
		return err
	}
	history, root, err := k.open(id)
	if err != nil {
		return err
	}
	defer root.Close()
	back, err := journal.BeginUndo(k.dir, workspaceExport, fmt.Sprintf("undo to %d", id), o.app.logger())
	if err != nil {
		return err
	}
	defer back.Close() //nolint:errcheck // what was recorded is written
	protected, err := guard.New(k.box.spec.Workspace.Protect)
	if err != nil {
		return err
	}
	undoer := &journal.Undoer{
		History: history, Root: root, Checkpoint: id, Keeper: back.Keeper,
		Skip: func(path string) bool {
			parts := strings.Split(path, "/")
			return protected.Protected(parts) && !protected.Vetted(parts)
		},
		Vet: func(path string) func(now, kept []byte) error {
			parts := strings.Split(path, "/")
			if !protected.Vetted(parts) {
				return nil
			}
			return func(now, kept []byte) error { return guard.CheckConfig(parts, now, kept) }
		},
	}
	report := undoer.Undo(paths)
	return o.print(report, back.ID)
}

// checkpointIfRunning begins a checkpoint where somebody could change files.
func checkpointIfRunning(ctx context.Context, box *sandbox, label string) error {
	client, err := control.Dial(ctx, box.files.ControlSocket())
	if err != nil {
		return nil //nolint:nilerr // nobody runs
	}
	defer client.Close() //nolint:errcheck // only idle connections are left
	_, err = client.Checkpoint(ctx, label)
	return err
}

// flush has the file server write down what the guest did last, some 20 ms of it, before the journal is read.
func (a *app) flush(ctx context.Context, client *control.Client) {
	if err := client.Flush(ctx); err != nil {
		a.warn(fmt.Sprintf("what the guest did last may be missing: %v", err))
	}
}

func (o undoOptions) print(r journal.Report, back int) error {
	if o.asJSON {
		if err := printJSON(o.app.Out, r); err != nil {
			return err
		}
	} else {
		o.printText(r)
	}
	if len(r.Restored)+len(r.Removed) > 0 {
		o.app.say("sbx: taken back with: sbx undo %d\n", back)
	}
	if len(r.Missing) > 0 {
		return fmt.Errorf("%d paths could not be put back", len(r.Missing))
	}
	return nil
}

func (o undoOptions) printText(r journal.Report) {
	for _, part := range []struct {
		word  string
		paths []string
	}{{"restored", r.Restored}, {"removed", r.Removed}, {"kept yours", r.Kept}} {
		for _, p := range part.paths {
			fmt.Fprintf(o.app.Out, "%-10s  %s\n", part.word, printable(p))
		}
	}
	for _, p := range r.Conflicts {
		fmt.Fprintf(o.app.Out, "%-10s  %s, the version before is %s\n", "conflict", printable(p), printable(r.Beside[p]))
	}
	for _, l := range r.Missing {
		fmt.Fprintf(o.app.Out, "%-10s  %s: %s\n", "not back", printable(l.Path), printable(l.Why))
	}
	if len(r.Restored)+len(r.Removed)+len(r.Kept)+len(r.Conflicts)+len(r.Missing) == 0 {
		fmt.Fprintln(o.app.Out, "nothing to take back")
	}
}

func newCheckpoint(a *app) *cobra.Command {
	cmd := group("checkpoint", "Mark a state of the workspace to come back to", "  sbx checkpoint make -m \"before the rewrite\"\n  sbx checkpoint ls",
		newCheckpointMake(a), newCheckpointLs(a))
	return cmd
}

func newCheckpointMake(a *app) *cobra.Command {
	var label, name string
	cmd := &cobra.Command{
		Use: "make", Short: "Make a checkpoint now",
		Long: "Makes a checkpoint of the running sandbox's workspace: nothing is copied until the guest changes it. One is made\n" +
			"at every `sbx up` and `sbx run` anyway.",
		Example: "  sbx checkpoint make -m \"before the rewrite\"",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			box, err := a.running(ctx, name)
			if err != nil {
				return err
			}
			defer box.close()
			id, err := box.client.Checkpoint(ctx, label)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, id)
			return err
		}),
	}
	cmd.Flags().StringVarP(&label, "message", "m", "", "what it is for")
	nameFlag(cmd, &name)
	return cmd
}

func newCheckpointLs(a *app) *cobra.Command {
	var name string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the checkpoints, the oldest first",
		Example: "  sbx checkpoint ls --json",
		Args:    maxArgs(0, "no arguments"),
		RunE: interruptible(func(context.Context, []string) error {
			k, err := a.journalOf(name)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, k.checkpoints)
			}
			var rows [][]string
			for _, c := range k.checkpoints {
				rows = append(rows, []string{strconv.Itoa(c.ID), c.Time.Local().Format(time.DateTime), bytesText(c.Bytes), printable(c.Label)})
			}
			return printTable(a.Out, []string{"ID", "TIME", "KEPT", "LABEL"}, rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	nameFlag(cmd, &name)
	return cmd
}

type diffOptions struct {
	app           *app
	name          string
	patch, asJSON bool
}

func newDiff(a *app) *cobra.Command {
	o := diffOptions{app: a}
	cmd := &cobra.Command{
		Use: "diff [CHECKPOINT]", Short: "Show what the guest did to your files",
		Long: "Lists the files that differ from a checkpoint (the latest one, if none is named) because of the guest: A made,\n" +
			"D gone, M changed, T of another kind, m mode alone, ? it cannot be looked at. With --patch also as a unified diff.\n" +
			"What your tools run or obey later (build files, CI, what git reads, executable files) is marked with the reason.\n" +
			"In mode review, without a checkpoint, it lists what the guest changed in its copy and `sbx apply` would take.",
		Example: "  sbx diff\n  sbx diff 3 --patch",
		RunE:    interruptible(func(ctx context.Context, args []string) error { return o.run(ctx, args) }),
	}
	cmd.Flags().BoolVarP(&o.patch, "patch", "p", false, "show the changes of text files")
	jsonFlag(cmd, &o.asJSON)
	nameFlag(cmd, &o.name)
	return cmd
}

func (o diffOptions) run(ctx context.Context, args []string) error {
	id, rest := splitCheckpoint(args)
	if len(rest) > 0 {
		return usagef("diff takes one CHECKPOINT, not %q", rest)
	}
	if box, err := o.app.existing(o.name); err == nil && id == 0 && box.spec.Workspace.Mode == machine.ModeReview {
		if box, err = o.app.reviewed(ctx, o.name); err != nil {
			return err
		}
		defer box.close()
		return o.reviewDiff(ctx, box)
	}
	k, err := o.app.journalOf(o.name)
	if err != nil {
		return err
	}
	if id, err = k.since(id); err != nil {
		return err
	}
	if client, err := control.Dial(ctx, k.box.files.ControlSocket()); err == nil { // else nobody runs
		o.app.flush(ctx, client)
		client.Close() //nolint:errcheck // only idle connections are left
	}
	history, root, err := k.open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the project %s is gone", k.box.spec.Project)
	}
	if err != nil {
		return err
	}
	defer root.Close()
	changes, err := history.Changes(root)
	if err != nil {
		return err
	}
	if o.patch && !o.asJSON {
		return history.Patch(o.app.patchOut(), root, changes)
	}
	handed, err := guard.NewHanded()
	if err != nil {
		return err
	}
	out := []marked{} // in JSON, none is a list too
	for _, c := range changes {
		out = append(out, marked{c, c.Handed(handed, root)})
	}
	return o.print(out)
}

func (o diffOptions) print(changes []marked) error {
	if o.asJSON {
		return printJSON(o.app.Out, changes)
	}
	for _, c := range changes {
		note := runsNote(c.Runs)
		if c.ByHost {
			note += " (changed by you since)"
		}
		if c.Status == "?" {
			note += " (" + printable(c.Lost) + ")"
		} else if c.Lost != "" {
			note += " (the old version was not kept: " + printable(c.Lost) + ")"
		}
		fmt.Fprintf(o.app.Out, "%s %s%s\n", c.Status, printable(c.Path), note)
	}
	return nil
}
