package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
)

// Serve is for Linux: QEMU on macOS notifies through pipes, and the rules of the
// file system rest on openat2.
func Serve(_ context.Context, conn *net.UnixConn, _ Config, _ *slog.Logger) error {
	conn.Close()
	return fmt.Errorf("live shared folder on macOS: %w (use workspace mode sync)", errors.ErrUnsupported)
}

func serve(ctx context.Context, conn *net.UnixConn, cfg Config, log *slog.Logger, _ peer) error {
	return Serve(ctx, conn, cfg, log)
}

func prepareProcess() error { return nil }
