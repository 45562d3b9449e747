package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gofrs/flock"
)

// ErrLocked is returned when a supervisor lives for the sandbox.
var ErrLocked = errors.New("the sandbox has a supervisor already")

// lockRetry is how long a supervisor tries for its lock: `sbx ls` holds it for a
// moment to see whether it is free.
const lockRetry = 2 * time.Second

// Work excludes other commands that make, start or delete this sandbox. It waits
// until ctx ends. The caller unlocks.
func (b *Sandbox) Work(ctx context.Context) (unlock func(), err error) {
	return b.lock(ctx, ".work")
}

// Life is the supervisor's lock. It is held until the process ends, however it does.
func (b *Sandbox) Life(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockRetry)
	defer cancel()
	unlock, err = b.lock(ctx, ".life")
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, ErrLocked
	}
	return unlock, err
}

func (b *Sandbox) lock(ctx context.Context, kind string) (func(), error) {
	l := flock.New(b.lockPath(kind), flock.SetPermissions(0o600))
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock sandbox %q: %w", b.name, err)
	}
	return func() { l.Unlock() }, nil //nolint:errcheck // the lock goes with the descriptor at the latest
}

// tryLife takes the life lock if it is free.
func (b *Sandbox) tryLife() (unlock func(), free bool, err error) {
	l := flock.New(b.lockPath(".life"), flock.SetPermissions(0o600))
	free, err = l.TryLock()
	return func() { l.Unlock() }, free, err //nolint:errcheck // see above
}

func (b *Sandbox) lockPath(kind string) string { return b.store.locks() + "/" + b.name + kind }
