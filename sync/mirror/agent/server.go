//go:build unix

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Hello is the first line that the host sends: which folder, and what in it is not mirrored.
type Hello struct {
	Dir     string   `json:"dir"` // made if there is none
	Ignore  []string `json:"ignore,omitempty"`
	MaxFile int64    `json:"max_file,omitempty"`
	MaxTree int      `json:"max_tree,omitempty"`
}

// Serve is the guest's end: it answers requests from in on out until in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	if !lines.Scan() {
		return lines.Err()
	}
	var hello Hello
	if err := json.Unmarshal(lines.Bytes(), &hello); err != nil {
		return fmt.Errorf("mirror: first line: %w", err)
	}
	s := &server{out: json.NewEncoder(out), known: tree.Tree{}}
	if err := s.open(ctx, hello); err != nil {
		return errors.Join(err, s.send(reply{Error: err.Error()}))
	}
	defer s.root.Close()
	var events sync.WaitGroup
	defer events.Wait()
	defer cancel()
	watch, err := s.root.Watch(ctx)
	if err != nil {
		return errors.Join(err, s.send(reply{Error: err.Error()}))
	}
	if err := s.send(reply{Note: watch.Note(), Text: "ready"}); err != nil {
		return err
	}
	events.Go(func() { s.follow(watch) })
	for lines.Scan() {
		var q request
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return fmt.Errorf("mirror: request: %w", err)
		}
		if err := s.answer(ctx, q); err != nil {
			return err
		}
	}
	return lines.Err()
}

type server struct {
	root  *disk.Root
	known tree.Tree // what the last scans found

	mu  sync.Mutex // one line at a time
	out *json.Encoder
}

func (s *server) open(_ context.Context, h Hello) error {
	ignore, err := disk.NewIgnore(h.Ignore)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return err
	}
	s.root, err = disk.Open(h.Dir, disk.Options{Ignore: ignore, MaxFile: h.MaxFile, MaxTree: h.MaxTree})
	return err
}

func (s *server) send(r reply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Encode(r)
}

func (s *server) follow(w *disk.Watch) {
	for paths := range w.Dirty {
		r := reply{Note: w.Note()}
		for _, p := range paths {
			r.Dirty = append(r.Dirty, []byte(p))
		}
		if s.send(r) != nil {
			return
		}
	}
}

func (s *server) answer(ctx context.Context, q request) error {
	r := reply{ID: q.ID}
	err := s.do(ctx, q, &r)
	if err != nil {
		r = reply{ID: q.ID, Error: err.Error()}
	}
	return s.send(r)
}

func (s *server) do(ctx context.Context, q request, r *reply) (err error) {
	path := ""
	if len(q.Paths) > 0 {
		path = string(q.Paths[0])
	}
	switch q.Op {
	case opScan:
		return s.scan(ctx, q, r)
	case opSums:
		sums, err := s.root.Sums(ctx, path)
		for _, h := range sums {
			r.Hashes = append(r.Hashes, h[:])
		}
		return err
	case opClone:
		r.Text, err = s.root.Clone(ctx, path)
	case opStaged:
		e, err := s.root.Staged(ctx, q.Name)
		r.Entries = []entry{toEntry("", e)}
		return err
	case opDrop:
		if disk.ValidStaged(q.Name) {
			s.root.Drop(q.Name)
		}
	case opApply:
		r.Faults = s.apply(ctx, q.Steps)
	case opFlush:
		return s.root.Flush()
	case opMark:
		r.Text = s.root.Mark()
	case opSetMark:
		return s.root.SetMark(q.Name)
	case opPrepare:
		return s.prepare(ctx)
	default:
		return fmt.Errorf("%q is not understood", q.Op)
	}
	return err
}

// prepare clears what a crash left and makes the staging folder.
func (s *server) prepare(ctx context.Context) error {
	if _, err := s.root.Recover(ctx, func(tree.Entry) bool { return true }); err != nil {
		return err
	}
	f, name, err := s.root.Stage()
	if err != nil {
		return err
	}
	f.Close()
	s.root.Drop(name)
	return nil
}

func (s *server) scan(ctx context.Context, q request, r *reply) error {
	var paths []string
	for _, p := range q.Paths {
		paths = append(paths, string(p))
	}
	found, err := s.root.Scan(ctx, paths, s.known)
	if err != nil {
		return err
	}
	for _, p := range s.known.Below(paths) {
		delete(s.known, p)
	}
	for p, e := range found {
		s.known[p] = e
		r.Entries = append(r.Entries, toEntry(p, e))
		if len(r.Entries) == perLine {
			r.More = true
			if err := s.send(*r); err != nil {
				return err
			}
			*r = reply{ID: q.ID}
		}
	}
	return nil
}

func (s *server) apply(ctx context.Context, steps []step) []fault {
	todo, out := make([]disk.Step, len(steps)), make([]fault, len(steps))
	for i, w := range steps {
		var err error
		if todo[i], err = w.step(); err != nil {
			todo[i] = disk.Step{} // which is no operation
		}
	}
	for i, err := range s.root.ApplyAll(ctx, todo) {
		if err != nil {
			out[i] = fault{Text: err.Error(), Changed: errors.Is(err, disk.ErrChanged)}
		}
	}
	return out
}
