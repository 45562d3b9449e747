package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Two folders of one disk are kept the same by each engine in turn: no machine, no
// network, both ends on this host. Ours runs as in a sandbox, its guest's end in
// processes of its own behind pipes; the peers copy within the host as they best can.

const (
	burst    = 5000
	oneFiles = 5 // changes of one file per round, each way
	hostSide = "a"
	farSide  = "b"
)

// syncRows are the rows, in the order of the table.
func syncRows() [][3]string {
	return [][3]string{
		{"first", "first copy", "ms"}, {"noop", "nothing to do", "ms"}, {"there", "one file to the guest", "ms"}, {"back", "one file to the host", "ms"},
		{"burst", fmt.Sprintf("burst of %d files", burst), "ms"}, {"memory", "memory", "MiB"},
	}
}

// engine keeps the folders a and b of a directory the same.
type engine interface {
	// begin starts it. It may return before anything is copied.
	begin(ctx context.Context) error
	// flush returns when both folders are the same.
	flush(ctx context.Context) error
	// watch has it copy by itself from now on; false: it does not.
	watch(ctx context.Context) (bool, error)
	// peak is the most memory that the processes of a watching engine held, in MiB.
	peak() (float64, error)
	end()
}

// syncs compares the engines.
func syncs(ctx context.Context, o options, dir string) (rows []row, err error) {
	for _, c := range []struct{ files, rounds int }{{10_000, o.syncSamples}, {100_000, 1}} {
		took := map[string]map[string][]float64{}
		for range c.rounds {
			for _, name := range syncEngines() {
				if took[name] == nil {
					took[name] = map[string][]float64{}
				}
				if err := syncRound(ctx, o, dir, name, c.files, took[name]); err != nil {
					return rows, fmt.Errorf("%s with %d files: %w", name, c.files, err)
				}
				fmt.Fprintf(os.Stderr, "bench: sync of %d files: %s %v\n", c.files, name, took[name])
			}
		}
		for _, r := range syncRows() {
			for _, peer := range syncEngines()[1:] {
				if len(took[peer][r[0]]) > 0 {
					rows = append(rows, compare(fmt.Sprintf("sync of %d: %s", c.files, r[1]), r[2], took[ours][r[0]], peer, took[peer][r[0]]))
				}
			}
		}
	}
	return rows, nil
}

func syncRound(ctx context.Context, o options, dir, name string, files int, took map[string][]float64) (err error) {
	dir, err = os.MkdirTemp(dir, "sync-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := errors.Join(sources(filepath.Join(dir, hostSide), files), os.Mkdir(filepath.Join(dir, farSide), 0o755)); err != nil {
		return err
	}
	e := newEngine(name, o, dir)
	defer e.end()
	note := func(key string, f func() error) error {
		unix.Sync() // what the one before left to write is not this one's
		start := time.Now()
		err := f()
		took[key] = append(took[key], millis(time.Since(start)))
		return err
	}
	first := func() error { return errors.Join(e.begin(ctx), e.flush(ctx)) }
	flush := func() error { return e.flush(ctx) }
	if err := note("first", first); err != nil {
		return err
	}
	if err := same(dir, files); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // stamps as young as the clock's step are looked at again
	if err := errors.Join(flush(), note("noop", flush)); err != nil {
		return err
	}
	if err := note("burst", func() error { return errors.Join(change(dir, files), flush()) }); err != nil {
		return err
	}
	if err := same(dir, files); err != nil {
		return err
	}
	watches, err := e.watch(ctx)
	if err != nil || !watches {
		return err
	}
	if err := oneByOne(ctx, dir, took); err != nil {
		return err
	}
	peak, err := e.peak()
	took["memory"] = append(took["memory"], peak)
	return err
}

// sourceName is a file of a tree with 20 files to a folder.
func sourceName(i int) string { return fmt.Sprintf("p%d/d%d/f%d.go", i/400, i/20, i) }

// sources makes n files of a source tree's sizes, which no engine can compress.
func sources(dir string, n int) error {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same files each time
	content := make([]byte, 8200)
	for i := range n {
		for j := range content {
			content[j] = byte(r.Uint32())
		}
		path := filepath.Join(dir, sourceName(i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content[:200+r.IntN(8000)], 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// same looks at a few files: an engine that did nothing would be the fastest.
func same(dir string, files int) error {
	for _, i := range []int{0, files / 2, files - 1} {
		a, err1 := os.ReadFile(filepath.Join(dir, hostSide, sourceName(i)))
		b, err2 := os.ReadFile(filepath.Join(dir, farSide, sourceName(i)))
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !slices.Equal(a, b) {
			return fmt.Errorf("%s differs", sourceName(i))
		}
	}
	return nil
}

func change(dir string, files int) error {
	for i := range min(burst, files) {
		if err := os.WriteFile(filepath.Join(dir, hostSide, sourceName(i)), fmt.Appendf(nil, "burst %d", i), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// oneByOne changes a file on a side and waits until it is on the other.
func oneByOne(ctx context.Context, dir string, took map[string][]float64) error {
	for i := range 2 * oneFiles {
		key, from, to := "there", hostSide, farSide
		if i%2 == 1 {
			key, from, to = "back", farSide, hostSide
		}
		content := fmt.Sprint("change ", i)
		start := time.Now()
		if err := os.WriteFile(filepath.Join(dir, from, sourceName(401)), []byte(content), 0o644); err != nil {
			return err
		}
		if err := arrives(ctx, filepath.Join(dir, to, sourceName(401)), content); err != nil {
			return err
		}
		took[key] = append(took[key], millis(time.Since(start)))
		time.Sleep(300 * time.Millisecond) // the engine has noted that both are the same
	}
	return nil
}

func arrives(ctx context.Context, path, content string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == content {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s never has %q: %w", path, content, ctx.Err())
}
