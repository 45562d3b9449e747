//go:build unix

package mirror

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/pkg/sftp"

	"github.com/sbx-vm/sbx/sync/mirror/agent"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Remote is how the guest's copy is reached: two streams into the guest, each opened anew
// for every session and closed by it.
type Remote struct {
	Dir string // the copy's absolute path in the guest
	// Agent opens a stream to agent.Serve, SFTP one to an SFTP server, both as the guest's user.
	Agent, SFTP func(ctx context.Context) (io.ReadWriteCloser, error)
}

// remote is the guest's copy. What its agent and its server say is not believed: names
// are checked by the agent's client, contents against the hashes that were planned with.
type remote struct {
	*agent.Client
	files  *sftp.Client
	stream io.Closer
	dir    string
	once   sync.Once
}

func dial(ctx context.Context, r Remote, hello agent.Hello) (*remote, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	stream, err := r.Agent(ctx)
	if err != nil {
		return nil, err
	}
	client, err := agent.Start(ctx, stream, hello)
	if err != nil {
		return nil, err
	}
	out := &remote{Client: client, dir: r.Dir}
	err = out.openFiles(ctx, r)
	if err == nil {
		err = out.Prepare(ctx)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

func (r *remote) openFiles(ctx context.Context, how Remote) error {
	stream, err := how.SFTP(ctx)
	if err != nil {
		return err
	}
	r.stream = stream
	stop := context.AfterFunc(ctx, r.drop)
	defer stop()
	r.files, err = sftp.NewClientPipe(stream, stream, sftp.UseConcurrentWrites(true))
	return err
}

// drop ends the SFTP stream, and with it every call on it.
func (r *remote) drop() {
	r.once.Do(func() { r.stream.Close() }) //nolint:errcheck // there is nobody left to tell
}

// Close ends both streams.
func (r *remote) Close() {
	if r.stream != nil {
		r.drop()
	}
	if r.files != nil {
		r.files.Close()
		r.files.Wait() //nolint:errcheck // why it ended is of no use
	}
	r.Client.Close()
}

// within runs calls that know no context: at its end the stream does too.
func (r *remote) within(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, r.drop)
	defer stop()
	err := f()
	if err == nil {
		return nil
	}
	var status *sftp.StatusError
	if errors.As(err, &status) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, io.EOF) && ctx.Err() == nil && !r.ended() {
		return err
	}
	r.drop()
	return fmt.Errorf("%w: %w", errLost, errors.Join(ctx.Err(), err))
}

func (r *remote) ended() bool {
	select {
	case <-r.Done():
		return true
	default:
		return false
	}
}

// Scan implements replica. The agent itself knows what it found before.
func (r *remote) Scan(ctx context.Context, paths []string, _ tree.Tree) (tree.Tree, error) {
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	return r.Client.Scan(ctx, paths)
}

func (r *remote) at(p string) string { return path.Join(r.dir, p) }

// Open implements replica.
func (r *remote) Open(ctx context.Context, p string) (source, error) {
	if !tree.ValidPath(p) {
		return nil, fs.ErrInvalid
	}
	var f *sftp.File
	err := r.within(ctx, func() (err error) { f, err = r.files.Open(r.at(p)); return err })
	if err != nil {
		return nil, err
	}
	return &remoteFile{ctx: ctx, r: r, f: f}, nil
}

// remoteFile is an open file of the guest. Its calls are bounded by the context that it
// was opened with.
type remoteFile struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt and io.WriterAt have none
	r    *remote
	f    *sftp.File
	name string
}

// ReadAt implements io.ReaderAt.
func (f *remoteFile) ReadAt(p []byte, at int64) (n int, err error) {
	err = f.r.within(f.ctx, func() (err error) { n, err = f.f.ReadAt(p, at); return err })
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *remoteFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.r.within(f.ctx, func() (err error) { n, err = f.f.WriteAt(p, at); return err })
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// Truncate implements target.
func (f *remoteFile) Truncate(size int64) error {
	return f.r.within(f.ctx, func() error { return f.f.Truncate(size) })
}

// Close implements io.Closer.
func (f *remoteFile) Close() error { return f.r.within(f.ctx, f.f.Close) }

// Staged implements target.
func (f *remoteFile) Staged() string { return f.name }

// Verify implements target.
func (f *remoteFile) Verify(ctx context.Context, want tree.Entry) error {
	return verify(ctx, f.r.Staged, f.name, want)
}

// Stage implements replica.
func (r *remote) Stage(ctx context.Context, clone string) (target, error) {
	var id [8]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	name, flags := "w-"+hex.EncodeToString(id[:]), os.O_WRONLY|os.O_CREATE|os.O_EXCL
	var err error
	if clone != "" {
		flags = os.O_WRONLY
		if name, err = r.Clone(ctx, clone); err != nil {
			return nil, err
		}
	}
	var f *sftp.File
	open := func() (err error) { f, err = r.files.OpenFile(r.at(path.Join(disk.StageDir, name)), flags); return err }
	if err = r.within(ctx, open); errors.Is(err, fs.ErrNotExist) { // somebody in the guest cleaned up
		if err = r.Prepare(ctx); err == nil {
			err = r.within(ctx, open)
		}
	}
	if err != nil {
		return nil, err
	}
	return &remoteFile{ctx: ctx, r: r, f: f, name: name}, nil
}

// Drop implements replica.
func (r *remote) Drop(ctx context.Context, name string) {
	r.Client.Drop(ctx, name) //nolint:errcheck // the next Prepare does it
}
