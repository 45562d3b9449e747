//go:build unix

// Package mirror keeps a folder of the host and one of the guest the same: modes sync
// and review.
//
// A session watches both sides, over one connection and without polling, and at each
// change looks again at what changed, has [tree.Reconcile] say what follows from it, and
// carries that out: content is staged beside its place, compared with the hash that was
// planned with, made durable and exchanged with what it replaces. What both copies last
// agreed on is kept on the host's disk. It may be lost or stale at any moment: then
// nothing counts as deleted, and the copies become the union of both.
//
// The guest is hostile. It names what is in its copy and gives its content, nothing else:
// where and whether that is written is decided here. What the guest may never write
// (sync/guard) is held, and shown.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/sbx-vm/sbx/sync/journal"
	"github.com/sbx-vm/sbx/sync/mirror/agent"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Config is what a session needs to know.
type Config struct {
	Root   string // the host's folder, absolute
	State  string // the file that the agreed state is kept in
	Remote Remote
	// Review lets nothing reach the host but by Apply.
	Review  bool
	Protect []string // as guard.New takes them, besides the built-in ones
	// Mask are paths as guard.NewMask takes them, besides the built-in ones: what is there
	// never reaches the guest, nor the host.
	Mask   []string
	Ignore []string // rules as in a .gitignore: neither side's is mirrored
	// MaxFile is the size of the largest file that is mirrored, in bytes; 0: 4 GiB.
	MaxFile int64
	// MaxDeletes is tree.Options.MaxDeletes.
	MaxDeletes int
	// Reserve is what stays free on the host's disk, in bytes; 0: 1 GiB, or a tenth of a small disk; less: nothing.
	Reserve int64
	// Journal records what the mirror replaces in the host's folder; nil: nothing is kept.
	Journal journal.Keeper
	Log     *slog.Logger

	fail func(step string) error // tests die here
}

const (
	defaultMaxFile = 4 << 30
	defaultReserve = 1 << 30
)

// State is what a session is doing.
type State string

// The states. A halted session changes nothing until Confirm, Reset, or until what
// halted it is gone by itself.
const (
	Connecting State = "connecting"
	Scanning   State = "scanning"
	Watching   State = "watching" // in step, or about to be
	Halted     State = "halted"
)

// Status is how a session is. Paths are bytes: escape them before they are printed.
type Status struct {
	State     State         `json:"state"`
	Problem   string        `json:"problem,omitempty"` // why it is not connected
	Halts     []tree.Halt   `json:"halts,omitempty"`
	Held      []tree.Held   `json:"held,omitempty"`
	Conflicts []string      `json:"conflicts,omitempty"` // files that hold the guest's version of a conflict
	Failed    []string      `json:"failed,omitempty"`    // what could not be done, tried again
	Notes     []string      `json:"notes,omitempty"`     // limits that were met
	Waiting   int           `json:"waiting,omitempty"`   // mode review: changes of the guest that nobody applied
	Files     int           `json:"files"`               // entries in the host's copy
	Bytes     int64         `json:"bytes"`               // copied in this session
	Synced    time.Time     `json:"synced"`              // when both were last the same; zero: not yet
	Took      time.Duration `json:"took"`                // the last round, in nanoseconds
}

// Session is a running mirror. Its methods may be called from any goroutine.
type Session struct {
	cfg      Config
	root     *disk.Root
	held     []*os.File
	kept     *kept
	policy   *policy
	fold     func(string) string
	requests chan request
	cancel   context.CancelFunc
	done     chan struct{}

	mu     sync.Mutex
	status Status
}

// Start begins to mirror and returns at once; Close ends it, and so does ctx. The host's
// folder must not be mirrored by another session: disk.ErrLocked.
func Start(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.MaxFile == 0 {
		cfg.MaxFile = defaultMaxFile
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	policy, err := newPolicy(cfg.Protect, cfg.Mask, cfg.MaxFile)
	if err != nil {
		return nil, err
	}
	ignore, err := disk.NewIgnore(cfg.Ignore)
	if err != nil {
		return nil, err
	}
	root, err := disk.Open(cfg.Root, disk.Options{Ignore: ignore, MaxFile: cfg.MaxFile, Fail: cfg.fail})
	if err != nil {
		return nil, err
	}
	held, err := root.Lock()
	if err != nil {
		root.Close()
		return nil, err
	}
	kept, err := openKept(cfg.Root, cfg.Journal)
	if err != nil {
		letGo(root, held)
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{
		cfg: cfg, root: root, held: held, kept: kept, policy: policy, fold: folding(cfg.Root),
		requests: make(chan request), cancel: cancel, done: make(chan struct{}), status: Status{State: Connecting},
	}
	go s.run(ctx)
	return s, nil
}

// folding finds out which names the host's file system takes for one.
func folding(root string) func(string) string {
	probe, err := os.MkdirTemp(root, disk.StageDir+"-")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(probe)
	exists := func(made, asked string) bool {
		if os.WriteFile(filepath.Join(probe, made), nil, 0o600) != nil {
			return false
		}
		_, err := os.Lstat(filepath.Join(probe, asked))
		return err == nil
	}
	folds, normalises := exists("Case", "cASE"), exists("\u00e9", "e\u0301")
	switch {
	case folds:
		return func(p string) string { return strings.ToLower(norm.NFC.String(strings.ToUpper(p))) }
	case normalises:
		return norm.NFC.String
	}
	return nil
}

// Close ends the session and returns when it has let go of both copies.
func (s *Session) Close() {
	s.cancel()
	<-s.done
}

// Status tells how the session is.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *Session) tell(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status)
}

// request is work for the goroutine that owns the engine.
type request struct {
	do    func(context.Context, *engine) error
	reply chan error
}

// errAway says that there is nobody to talk to now.
var errAway = errors.New("the guest's copy is not connected")

// ask has work done by the session, once it is connected.
func (s *Session) ask(ctx context.Context, do func(context.Context, *engine) error) error {
	r := request{do: do, reply: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-s.done:
		return errAway
	case <-ctx.Done():
		return errors.Join(errAway, ctx.Err())
	}
	select {
	case err := <-r.reply:
		return err
	case <-s.done:
		return errAway
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Flush looks at all of both copies and returns when they are the same, deletions
// included. A halt is an error; Held differences are none.
func (s *Session) Flush(ctx context.Context) error { return s.flush(ctx, false) }

// Confirm is Flush for a user who agrees to what a halt asked about.
func (s *Session) Confirm(ctx context.Context) error { return s.flush(ctx, true) }

func (s *Session) flush(ctx context.Context, confirmed bool) error {
	return s.ask(ctx, func(ctx context.Context, e *engine) error {
		if err := e.look(ctx, []string{""}, []string{""}); err != nil {
			return err
		}
		out, err := e.settle(ctx, true, confirmed)
		if err != nil {
			return err
		}
		s.report(e, out)
		if len(out.plan.Halts) > 0 {
			return fmt.Errorf("nothing was changed: %w", HaltError{out.plan.Halts})
		}
		return e.save(ctx)
	})
}

// HaltError is why nothing is done before somebody was asked.
type HaltError struct{ Halts []tree.Halt }

func (h HaltError) Error() string {
	var out []string
	for _, halt := range h.Halts {
		switch halt.Reason {
		case tree.Emptied:
			out = append(out, fmt.Sprintf("the %s's copy is empty", halt.Side))
		case tree.DeletedMany:
			out = append(out, fmt.Sprintf("%d of %d files are gone from the %s's copy", halt.Count, halt.Of, halt.Side))
		case tree.ProtectedDeleted:
			out = append(out, fmt.Sprintf("%q is gone from the %s's copy", halt.Path, halt.Side))
		case tree.RootChanged:
			out = append(out, fmt.Sprintf("the %s's folder was moved or replaced", halt.Side))
		}
	}
	return strings.Join(out, "; ")
}

// Reset forgets what the copies agreed on: what is on one side only is copied to the
// other, nothing is deleted, and what differs is a conflict.
func (s *Session) Reset(ctx context.Context) error {
	return s.ask(ctx, func(_ context.Context, e *engine) error {
		e.base, e.agreed, e.deleted, e.policy.refused = tree.Tree{}, true, nil, map[string]refusal{}
		e.compare()
		return nil
	})
}

// Conflicts are the files that hold the guest's version of a conflict. Delete or merge
// them as any other.
func (s *Session) Conflicts() []string { return s.Status().Conflicts }

// letGo closes the host's folder and ends the locks on it.
func letGo(root *disk.Root, held []*os.File) {
	root.Close()
	for _, f := range held {
		f.Close()
	}
}

func (s *Session) run(ctx context.Context) {
	defer close(s.done)
	defer func() {
		s.root.Tidy()
		s.kept.close()
		letGo(s.root, s.held)
	}()
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		began := time.Now()
		err := s.connected(ctx)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Log.Info("the mirror's session ended", "error", err)
		s.tell(func(st *Status) { st.State, st.Problem = Connecting, err.Error() })
		if errors.Is(err, disk.ErrRoot) {
			s.tell(func(st *Status) {
				st.State, st.Halts = Halted, []tree.Halt{{Side: tree.Host, Reason: tree.RootChanged}}
			})
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// Pauses between attempts to connect.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// connected is one connection's life.
func (s *Session) connected(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hello := agent.Hello{Dir: s.cfg.Remote.Dir, Ignore: s.cfg.Ignore, MaxFile: s.cfg.MaxFile}
	guest, err := dial(ctx, s.cfg.Remote, hello)
	if err != nil {
		return err
	}
	defer guest.Close()
	watch, err := s.root.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		for range watch.Dirty { // until it has ended
		}
	}()
	s.tell(func(st *Status) { st.State, st.Problem = Scanning, "" })
	each := &atomic.Bool{}
	e := &engine{
		root: s.root, each: each, host: local{s.root, each, s.kept}, guest: guest, policy: s.policy, log: s.cfg.Log, review: s.cfg.Review,
		maxDeletes: s.cfg.MaxDeletes, reserve: s.cfg.Reserve, fold: s.fold, now: time.Now, fail: s.cfg.fail,
		memory: &memory{path: s.cfg.State, host: s.root.Identity(), guest: guest},
	}
	if err := e.begin(ctx); err != nil {
		return err
	}
	l := loop{s: s, e: e, guest: guest, watch: watch}
	return l.run(ctx)
}
