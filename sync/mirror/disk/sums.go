//go:build unix

package disk

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/sbx-vm/sbx/sync/tree"
)

// Block is the size of the pieces in which large files are compared, in bytes.
const Block = 128 << 10

// Sums hashes a file piece by piece.
func (r *Root) Sums(ctx context.Context, path string) ([]tree.Hash, error) {
	f, err := r.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []tree.Hash
	buf := make([]byte, Block)
	for ctx.Err() == nil {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			out = append(out, sha256.Sum256(buf[:n]))
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err != nil || int64(len(out))*Block > r.o.MaxFile {
			return out, nil
		}
	}
	return nil, ctx.Err()
}
