//go:build unix

package mirror

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/google/renameio/v2"

	"github.com/sbx-vm/sbx/sync/tree"
)

// marker is the part of a replica that remembers which pair it is half of.
type marker interface {
	Mark(ctx context.Context) (string, error)
	SetMark(ctx context.Context, mark string) error
}

// memory keeps what the copies agreed on, on the host's disk.
type memory struct {
	path       string
	host       string // identity of the host's folder
	guest      marker
	pair       string
	generation uint64
}

const maxState = 1 << 30 // bytes of a state's file: 2 million entries have less

// load gives the agreed state, or an empty one if what there is cannot be believed: it is
// damaged, older than the guest's copy knows, or of another pair. lost says why.
func (m *memory) load(ctx context.Context) (base tree.Tree, lost string, err error) {
	mark, err := m.guest.Mark(ctx)
	if err != nil {
		return nil, "", err
	}
	state, err := m.read()
	switch {
	case errors.Is(err, os.ErrNotExist):
		lost = "the copies were never together"
	case err != nil:
		lost = err.Error()
	case mark != m.mark(state.Pair, state.Generation) && (state.Generation == 0 || mark != m.mark(state.Pair, state.Generation-1)):
		lost = "the state is not of these two copies"
	default:
		m.pair, m.generation = state.Pair, state.Generation
		return state.Base, "", nil
	}
	var id [16]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	m.pair, m.generation = hex.EncodeToString(id[:]), 0
	return tree.Tree{}, lost, nil
}

func (m *memory) mark(pair string, generation uint64) string {
	return fmt.Sprintf("%s %s %d", pair, m.host, generation)
}

func (m *memory) read() (tree.State, error) {
	info, err := os.Stat(m.path)
	if err != nil {
		return tree.State{}, err
	}
	if info.Size() > maxState {
		return tree.State{}, fmt.Errorf("%w: %d bytes", tree.ErrState, info.Size())
	}
	data, err := os.ReadFile(m.path)
	if err != nil {
		return tree.State{}, err
	}
	return tree.DecodeState(data)
}

// save writes the state, then tells the guest's copy of it: a crash between leaves a
// state that is one ahead, which is believed.
func (m *memory) save(ctx context.Context, base tree.Tree) error {
	next := tree.State{Pair: m.pair, Generation: m.generation + 1, Base: base}
	if err := renameio.WriteFile(m.path, next.Encode(), 0o600); err != nil {
		return fmt.Errorf("save the state of the copies: %w", err)
	}
	m.generation++
	return m.guest.SetMark(ctx, m.mark(m.pair, m.generation))
}
