package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// limits measures what the machine itself can do, so that a reader of the other
// rows knows what they were taken on.
func limits(ctx context.Context, _ options, dir string) ([]row, error) {
	forks, err := sample(200, func() error { return exec.CommandContext(ctx, "/bin/true").Run() })
	if err != nil {
		return nil, err
	}
	trips, err := loopbackTrips(ctx, 200)
	if err != nil {
		return nil, err
	}
	disk, err := diskRates(dir, 5)
	if err != nil {
		return nil, err
	}
	return []row{
		machineLimit("fork+exec of /bin/true", "ms", lower, forks),
		machineLimit("loopback TCP round trip", "ms", lower, trips),
		machineLimit("disk write with fsync", "MB/s", higher, disk),
	}, nil
}

func loopbackTrips(ctx context.Context, n int) ([]float64, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn) //nolint:errcheck // the echo ends when the other side closes
	}()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	buf := make([]byte, 1)
	return sample(n, func() error {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, buf)
		return err
	})
}

// diskRates writes 64 MiB with one fsync n times, in MB/s (10^6 bytes).
func diskRates(dir string, n int) ([]float64, error) {
	const size = 64 << 20
	data := make([]byte, 1<<20)
	var rates []float64
	for range n {
		start := time.Now()
		if err := writeSynced(filepath.Join(dir, "disk"), data, size/len(data)); err != nil {
			return nil, err
		}
		rates = append(rates, size/1e6/time.Since(start).Seconds())
	}
	return rates, nil
}

func writeSynced(path string, block []byte, blocks int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for range blocks {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Sync()
}
