//go:build !linux

package journal

import (
	"errors"
	"fmt"
	"log/slog"
)

// BeginUndo is for Linux, where the only journals are written.
func BeginUndo(string, string, string, *slog.Logger) (*UndoCheckpoint, error) {
	return nil, fmt.Errorf("a journal on this system: %w", errors.ErrUnsupported)
}

// Record is for Linux, too.
func Record(string, string, string, *slog.Logger) (*Recording, error) {
	return nil, fmt.Errorf("a journal on this system: %w", errors.ErrUnsupported)
}
