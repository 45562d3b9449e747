package qmp

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestLibvirtThatDoesNotAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := LibvirtDomains(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestNoLibvirt(t *testing.T) {
	if _, err := LibvirtDomains(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("domains without a daemon")
	}
}
