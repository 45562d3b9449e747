package fetch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// stall is how long a transfer may stand still.
const stall = 30 * time.Second

// try makes one request for what is missing of f and, when the file is whole,
// checks it and puts it in place. counted is how much progress was reported before.
func (c *Client) try(ctx context.Context, f File, path string, counted *int64) error {
	partial := path + ".partial"
	lock := flock.New(partial + ".lock")
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return fmt.Errorf("lock %s: %w", partial, err)
	}
	defer lock.Unlock() //nolint:errcheck // the descriptor is closed with it
	if _, err := os.Stat(path); err == nil {
		return nil // another process was quicker
	}
	out, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := c.fill(ctx, f, out, counted); err != nil {
		return err
	}
	if err := verify(out, f); err != nil {
		// Never resume what is wrong.
		return errors.Join(err, os.Remove(partial))
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	os.Remove(partial + ".lock") //nolint:errcheck // left over it does no harm
	return nil
}

// fill appends to out what it does not hold yet.
func (c *Client) fill(ctx context.Context, f File, out *os.File, counted *int64) error {
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if f.Size == 0 || have > f.Size {
		have = 0
	}
	if f.Size > 0 && have == f.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := c.open(ctx, f.URL, have)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		have = 0
	}
	if err := out.Truncate(have); err != nil {
		return err
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return err
	}
	limit := f.Size
	if limit == 0 {
		limit = MaxUnsized
	}
	watch := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte for %s", stall)) })
	defer watch.Stop()
	body := &counter{r: io.LimitReader(resp.Body, limit-have+1), at: have, client: c, counted: counted, watch: watch}
	n, err := io.Copy(out, body)
	return filled(ctx, f, have+n, limit, err)
}

// filled turns the end of a transfer into an error that says what happened.
func filled(ctx context.Context, f File, have, limit int64, err error) error {
	switch {
	case err != nil && context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case have > limit:
		return fmt.Errorf("%w: more than %d bytes", ErrHash, limit)
	case f.Size > 0 && have < f.Size:
		return fmt.Errorf("transfer ended after %d of %d bytes: %w", have, f.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// open requests url from byte offset on. The caller closes the body. The answer
// is 200 (all of it) or 206 (the rest).
func (c *Client) open(ctx context.Context, url string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, unreachable(err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && offset > 0 {
		return resp, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		return nil, fmt.Errorf("%w (%s)", ErrNotFound, resp.Status)
	}
	return nil, fmt.Errorf("server answered %s", resp.Status)
}

// unreachable tells a server that is not there from a connection that broke:
// only the second is worth another try.
func unreachable(err error) error {
	var op *net.OpError
	var timeout net.Error
	if errors.As(err, &op) && op.Op == "dial" || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// verify reads the whole file back: resumed halves may come from different servers.
func verify(file *os.File, f File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	want, sum := f.sum()
	n, err := io.Copy(sum, file)
	if err != nil {
		return err
	}
	if f.Size > 0 && n != f.Size {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrHash, n, f.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("%w: hash %s instead of %s", ErrHash, got, want)
	}
	return nil
}

// counter reports progress once per byte, also across tries, and winds the stall watch.
type counter struct {
	r       io.Reader
	at      int64
	client  *Client
	counted *int64
	watch   *time.Timer
}

func (r *counter) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.watch.Reset(stall)
		r.at += int64(n)
		if r.at > *r.counted {
			r.client.count(r.at - *r.counted)
			*r.counted = r.at
		}
	}
	return n, err
}
