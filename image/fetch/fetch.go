// Package fetch downloads files whose hash is known before they are asked for,
// and keeps them by that hash. A file is in the cache whole and verified or it
// is not there: bytes arrive in a partial file beside it, which the next try
// resumes, and only a rename after the hash has been checked puts it in place.
// What a mirror sends is hostile: it never gets to write more than the expected size.
package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// File is one file to have. URL is where it is, the hash (hex; one of the two)
// and Size in bytes what it must be. Size 0 means unknown, at most MaxUnsized.
type File struct {
	URL    string
	SHA256 string
	SHA512 string // what npm's registry announces
	Size   int64
}

// sum is the file's name in the cache, and the hash that must come to it.
func (f File) sum() (string, hash.Hash) {
	if f.SHA256 == "" {
		return f.SHA512, sha512.New()
	}
	return f.SHA256, sha256.New()
}

// Limits. A file of Debian's archive is below 2 GiB; what has no announced size
// is an InRelease or a tarball of some megabytes.
const (
	MaxSize    = 4 << 30
	MaxUnsized = 64 << 20
	parallel   = 6 // as apt and mirrors bear it; more gains nothing on one link
	attempts   = 3 // one to fail, one to resume, one for luck; a mirror that is down stays down
)

// Errors that callers branch on.
var (
	// ErrUnreachable means that the server did not answer at all.
	ErrUnreachable = errors.New("server does not answer")
	// ErrNotFound is the server's 404 or 410.
	ErrNotFound = errors.New("not found on the server")
	// ErrHash means that a complete answer was not the file asked for.
	ErrHash = errors.New("content is not what was announced")
)

// Client downloads into one cache folder. It is safe for concurrent use, also
// by several processes.
type Client struct {
	HTTP  *http.Client
	Dir   string        // cache: Dir/ab/abcdef…; made when missing
	Pause time.Duration // between tries; doubles
	// Done, when not nil, is called with the bytes that arrived, from several goroutines.
	Done func(n int64)
}

// NewHTTP returns a client whose parts all have deadlines: an unreachable
// server is an error within 10 s, a silent one within 30.
func NewHTTP() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  20 * time.Second,
		MaxIdleConnsPerHost:    parallel,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // hashes are of the bytes on the server
	}}
}

// Path says where f is or will be in the cache. f has a valid hash.
func (c *Client) Path(f File) string {
	sum, _ := f.sum()
	return filepath.Join(c.Dir, sum[:2], sum)
}

// All fetches files, several at once, and ends at the first error.
func (c *Client) All(ctx context.Context, files []File) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files {
		group.Go(func() error {
			_, err := c.Get(ctx, f)
			return err
		})
	}
	return group.Wait()
}

// Get returns the path of f in the cache and downloads it first when it is not
// there. Errors wrap ErrUnreachable, ErrNotFound or ErrHash where one fits.
func (c *Client) Get(ctx context.Context, f File) (string, error) {
	if err := check(f); err != nil {
		return "", err
	}
	path := c.Path(f)
	if info, err := os.Stat(path); err == nil && (f.Size == 0 || info.Size() == f.Size) {
		c.count(info.Size())
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make the download cache: %w", err)
	}
	var counted int64
	pause := c.Pause
	for n := 1; ; n++ {
		err := c.try(ctx, f, path, &counted)
		if err == nil {
			return path, nil
		}
		if n == attempts || !again(err) || ctx.Err() != nil {
			return "", fmt.Errorf("download %s: %w", f.URL, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return "", err
		}
		pause *= 2
	}
}

func check(f File) error {
	sum, algorithm := f.sum()
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != algorithm.Size() {
		return fmt.Errorf("download %s: %q is no hash", f.URL, sum)
	}
	if f.Size < 0 || f.Size > MaxSize {
		return fmt.Errorf("download %s: announced size %d is out of range", f.URL, f.Size)
	}
	return nil
}

// again says whether another try can help. Nobody waits out a server that is not there.
func again(err error) bool {
	var local *os.PathError
	return !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrUnreachable) && !errors.As(err, &local)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (c *Client) count(n int64) {
	if c.Done != nil {
		c.Done(n)
	}
}

// Text fetches a small file of unknown hash (an InRelease, which carries its
// own signature): at most limit bytes, never cached.
func (c *Client) Text(ctx context.Context, url string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := c.open(ctx, url, 0)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("download %s: larger than %d bytes", url, limit)
	}
	return data, nil
}
