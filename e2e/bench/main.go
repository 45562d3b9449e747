// Command bench measures sbx against peers in one run on one machine, prints a
// table and writes it as JSON. Absolute times mean little on a shared machine;
// the ratio of two medians taken minutes apart on the same one means something, so
// a row without a peer has the limit that was promised in its place.
//
// The peer of a cold start is a stock Debian guest as a cloud image has it:
// systemd, q35, SeaBIOS, an initrd made by initramfs-tools, sshd; started by the
// same QEMU with the same kernel package and as many processors. It is built here,
// from packages, because a ready image would have to be downloaded.
//
// The peers of the network are gvisor-tap-vsock, passt and slirp4netns, in namespaces and
// without a machine: nets_linux.go. Those of the mount are virtiofsd and 9p, in one guest:
// mount_linux.go. Those of the mirror are mutagen, unison and rsync, on this host: sync_linux.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err, isPart := part(ctx, os.Args[1:])
	if !isPart {
		err = run(ctx, os.Args[1:])
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	sbx          string // path of the sbx binary
	out          string // where the JSON goes
	cache        string // the peer's disk is kept here between runs
	samples      int    // starts per side; exec takes ten times as many
	gvproxy      string // the program of gvisor-tap-vsock
	netSamples   int    // rounds of the network
	mountSamples int    // rounds of the mounts
	mutagen      string // the program of mutagen
	syncSamples  int    // rounds of the mirrors with few files
	only         string // one suite, or all
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.sbx, "sbx", "bin/sbx", "the sbx to measure")
	flags.StringVar(&o.out, "o", "bin/bench.json", "where to write the figures")
	flags.IntVar(&o.samples, "samples", 5, "cold starts per side")
	flags.StringVar(&o.cache, "cache", "", "folder of the peer's disk (default: the user's cache folder)")
	flags.StringVar(&o.gvproxy, "gvproxy", "bin/gvproxy", "gvisor-tap-vsock's program")
	flags.IntVar(&o.netSamples, "net-samples", 3, "rounds of the network")
	flags.IntVar(&o.mountSamples, "mount-samples", 6, "rounds of the mounts; an even number, for the order changes with each")
	flags.StringVar(&o.mutagen, "mutagen", "bin/mutagen", "mutagen's program")
	flags.IntVar(&o.syncSamples, "sync-samples", 3, "rounds of the mirrors with 10,000 files")
	flags.StringVar(&o.only, "only", "", "one of limits, network, mount, sync, starts, execs (default: all)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, err
		}
		o.cache = filepath.Join(dir, "sbx-bench")
	}
	sbx, err := filepath.Abs(o.sbx)
	o.sbx = sbx
	return o, err
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sbx-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	var rows []row
	for _, suite := range []struct {
		name string
		run  func(context.Context, options, string) ([]row, error)
	}{{"limits", limits}, {"network", networks}, {"mount", mounts}, {"sync", syncs}, {"starts", starts}, {"execs", execs}} {
		if o.only != "" && o.only != suite.name {
			continue
		}
		more, suiteErr := suite.run(ctx, o, dir)
		rows = append(rows, more...)
		// What was measured before a fault is still worth writing down.
		if err = errors.Join(err, suiteErr); ctx.Err() != nil {
			break
		}
	}
	printTable(os.Stdout, rows)
	return errors.Join(err, writeJSON(o.out, rows))
}

func writeJSON(path string, rows []row) error {
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
