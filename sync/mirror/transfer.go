//go:build unix

package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Bounds of transfers.
const (
	fewFiles   = 8        // made durable one by one
	inFlight   = 16       // files at a time: each costs round trips
	chunkFiles = 512      // files staged before they are placed
	chunkBytes = 64 << 20 // or so many bytes
	piece      = 1 << 20  // bytes read at a time
	deltaFrom  = 1 << 20  // bytes of a file from which on pieces are compared
)

// chunks cuts a list of files into what is staged, made durable and placed together.
func chunks(puts []tree.Action) iter.Seq[[]tree.Action] {
	return func(yield func([]tree.Action) bool) {
		start, size := 0, int64(0)
		for i, a := range puts {
			if i > start && (i-start >= chunkFiles || size+a.Want.Size > chunkBytes) {
				if !yield(puts[start:i]) {
					return
				}
				start, size = i, 0
			}
			size += a.Want.Size
		}
		if start < len(puts) {
			yield(puts[start:])
		}
	}
}

// puts brings files to a side: staged and verified together, made durable, placed.
func (e *engine) puts(ctx context.Context, side tree.Side, puts []tree.Action, retry map[tree.Side][]string) error {
	few := side == tree.Host && len(puts) <= fewFiles
	e.each.Store(few)
	staged := make([]string, len(puts))
	faults := make([]error, len(puts))
	var lost atomic.Pointer[error]
	var once sync.Once
	var group errgroup.Group
	group.SetLimit(inFlight)
	for i, a := range puts {
		group.Go(func() error {
			staged[i], faults[i] = e.transfer(ctx, a)
			if errors.Is(faults[i], errLost) {
				once.Do(func() { lost.Store(&faults[i]) })
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // it has none
	if err := lost.Load(); err != nil {
		return *err
	}
	dst, _ := e.replica(side)
	if side == tree.Host && !few {
		if err := dst.Flush(ctx); err != nil {
			return err
		}
	}
	var steps []disk.Step
	for i, a := range puts {
		s := disk.Step{Action: a, Staged: staged[i]}
		if faults[i] == nil {
			faults[i] = e.checkConfig(s)
		}
		if faults[i] != nil {
			e.failed(a, faults[i], retry)
			if staged[i] != "" {
				dst.Drop(ctx, staged[i])
			}
			continue
		}
		e.bytes += a.Want.Size
		steps = append(steps, s)
	}
	return e.steps(ctx, side, steps, retry)
}

// errLost says that the other side does not answer any more.
var errLost = errors.New("the guest's copy does not answer")

// hasRoom tells whether so many bytes leave the reserve on the host's disk.
func (e *engine) hasRoom(n int64) error {
	free, size, err := e.root.Free()
	if err != nil {
		return errors.Join(errNoSpace, err)
	}
	reserve := e.reserve
	if reserve == 0 {
		reserve = min(defaultReserve, size/10)
	}
	if free-n < reserve {
		return errNoSpace
	}
	return nil
}

// transfer stages one file and gives its staged name.
func (e *engine) transfer(ctx context.Context, a tree.Action) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline(a.Want.Size))
	defer cancel()
	dst, _ := e.replica(a.Side)
	src, _ := e.replica(tree.Host + tree.Guest - a.Side)
	if a.Side == tree.Host {
		if err := e.hasRoom(a.Want.Size); err != nil {
			return "", err
		}
	}
	same := e.pieces(ctx, dst, src, a)
	from, err := src.Open(ctx, a.Path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	clone := ""
	if same != nil {
		clone = a.Path
	}
	to, err := dst.Stage(ctx, clone)
	if err != nil {
		return "", err
	}
	if same != nil {
		err = e.patch(ctx, to, from, a.Want, same)
	} else {
		err = copyAll(ctx, to, from, a.Want)
	}
	return to.Staged(), err
}

// pieces tells which pieces of a large file both sides have; nil is to send it whole.
func (e *engine) pieces(ctx context.Context, dst, src replica, a tree.Action) []bool {
	if a.Have.Kind != tree.File || min(a.Have.Size, a.Want.Size) < deltaFrom {
		return nil
	}
	most := func(size int64) int { return int((size + disk.Block - 1) / disk.Block) }
	var old, now []tree.Hash
	var both errgroup.Group
	both.Go(func() (err error) { old, err = dst.Sums(ctx, a.Path, most(a.Have.Size)); return err })
	both.Go(func() (err error) { now, err = src.Sums(ctx, a.Path, most(a.Want.Size)); return err })
	if both.Wait() != nil {
		return nil
	}
	same, any := make([]bool, len(now)), false
	for i := range now {
		same[i] = i < len(old) && old[i] == now[i]
		any = any || same[i]
	}
	if !any || len(now) != most(a.Want.Size) {
		return nil
	}
	return same
}

// copyAll copies a file of known size, and hashes it on the way.
func copyAll(ctx context.Context, to target, from source, want tree.Entry) error {
	h := sha256.New()
	buf := make([]byte, min(want.Size, piece))
	for at := int64(0); at < want.Size; {
		n, err := readAt(ctx, from, buf[:min(int64(len(buf)), want.Size-at)], at)
		if err != nil {
			return errors.Join(err, to.Close())
		}
		h.Write(buf[:n])
		if _, err := to.WriteAt(buf[:n], at); err != nil {
			return errors.Join(err, to.Close())
		}
		at += int64(n)
	}
	if err := to.Close(); err != nil {
		return err
	}
	if got := tree.Hash(h.Sum(nil)); got != want.Hash {
		return fmt.Errorf("%w: what arrived is not what was there", disk.ErrChanged)
	}
	return nil
}

// readAt fills the buffer: a file that is shorter than it was is another one.
func readAt(ctx context.Context, from source, buf []byte, at int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := from.ReadAt(buf, at)
	if n == len(buf) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: it is shorter", disk.ErrChanged)
	}
	return n, err
}

// patch sends the pieces that differ into a copy of the old file, and has the result hashed.
func (e *engine) patch(ctx context.Context, to target, from source, want tree.Entry, same []bool) error {
	buf := make([]byte, disk.Block)
	err := to.Truncate(want.Size)
	for i := range same {
		at := int64(i) * disk.Block
		if same[i] || err != nil {
			continue
		}
		part := buf[:min(disk.Block, want.Size-at)]
		if _, err = readAt(ctx, from, part, at); err == nil {
			_, err = to.WriteAt(part, at)
		}
	}
	if err := errors.Join(err, to.Close()); err != nil {
		return err
	}
	return to.Verify(ctx, want)
}
