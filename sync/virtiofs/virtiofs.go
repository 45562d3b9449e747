// Package virtiofs serves folders of the host to a guest, as a vhost-user-fs
// backend of QEMU, without virtiofsd and without root.
//
// Three parts, each ignorant of the next: vhostuser speaks the protocol and the
// rings, go-fuse's ProtocolServer turns chains of guest memory into calls, share
// is the file system. It runs in a process of its own, `sbx __fileserver`, which
// machine/confine has taken all rights from but those to the exported folders.
//
// The guest's kernel enforces nothing that the host relies on: names, modes,
// owners, read-only and protected paths are checked here, on copies that the guest
// cannot change any more.
//
// What happens when: at a guest's reset QEMU stops each ring (GET_VRING_BASE),
// which is answered when the requests in flight are done, or after [vhostuser.Drain];
// when QEMU ends, the connection does, and Serve returns nil; when this process ends,
// QEMU goes on, the guest's requests to the share wait for ever, and the supervisor
// must end the machine.
//
// Confinement needs: the exports' paths (read and write, with Landlock's "refer",
// or moves between folders fail with EXDEV; read alone for read-only exports), /proc
// (own descriptors are reopened through /proc/self/fd), and as many descriptors as
// may be: every inode that the guest remembers holds one. Neither network nor capabilities.
package virtiofs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
)

// Export is one folder of the host. It appears under its Name in the share's root.
type Export struct {
	Name     string `json:"name"`
	Path     string `json:"path"` // absolute
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Config is what a server needs to know. It travels as JSON on standard input.
type Config struct {
	Exports []Export `json:"exports"`
	// GuestUID and GuestGID own, in the guest's eyes, what the server's user owns on the host.
	GuestUID uint32 `json:"guest_uid"`
	GuestGID uint32 `json:"guest_gid"`
	// Protect are paths besides guard.Builtin that the guest may read and never change.
	Protect []string `json:"protect,omitempty"`
	// Mask are paths besides guard.BuiltinMask whose content the guest never sees; "!" before one shows it.
	Mask []string `json:"mask,omitempty"`
	// Journal is a folder of the server's own that keeps what the guest changes, see package journal; empty: nothing is kept.
	Journal string `json:"journal,omitempty"`
	// Reserve is how many bytes stay free on the file systems of the exports, whatever the guest writes. 0: 1 GiB, or a
	// tenth of a file system that is small; less: none.
	Reserve int64 `json:"reserve,omitempty"`
	// Label of the checkpoint that begins with the server.
	Label string `json:"label,omitempty"`
}

// maxConfig bounds the document: a few exports and patterns.
const maxConfig = 1 << 20

// Command is what the supervisor asks of a server that runs, a JSON document on its standard input.
// Each has one [Answer].
type Command struct {
	Number     int    `json:"number,omitempty"` // its answer's too
	Checkpoint string `json:"checkpoint"`       // the label of a new checkpoint of the journal
	Flush      bool   `json:"flush,omitempty"`  // no checkpoint: the journal is to hold all that was done before
}

// Answer is a JSON document on standard output: to a Command, or, with Changed, of the server's own accord.
type Answer struct {
	Number  int      `json:"number,omitempty"` // the command's
	ID      int      `json:"id,omitempty"`     // of the checkpoint
	Error   string   `json:"error,omitempty"`
	Changed []Change `json:"changed,omitempty"`
}

// Change is one that the host's user made, see package nudge.
type Change struct {
	Export string `json:"export"`
	Path   []byte `json:"path"` // below the export
	Plain  bool   `json:"plain,omitempty"`
}

// Main is the hidden subcommand: it reads a Config from stdin, then [Command]s, and serves QEMU's
// connection, an inherited unix socket. It returns when QEMU closes it or ctx ends.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer, connFD int, log *slog.Logger) error {
	limit := &io.LimitedReader{R: stdin, N: maxConfig}
	decoder := json.NewDecoder(limit)
	decoder.DisallowUnknownFields()
	var cfg Config
	if err := decoder.Decode(&cfg); err != nil {
		return fmt.Errorf("file server: config: %w", err)
	}
	conn, err := inherited(connFD)
	if err != nil {
		return fmt.Errorf("file server: %w", err)
	}
	if err := prepareProcess(); err != nil {
		return errors.Join(fmt.Errorf("file server: %w", err), conn.Close())
	}
	var telling sync.Mutex
	tell := func(a Answer) bool {
		telling.Lock()
		defer telling.Unlock()
		return json.NewEncoder(stdout).Encode(a) == nil
	}
	return serve(ctx, conn, cfg, log, peer{
		listen: func(do func(Command) Answer) {
			for {
				limit.N = maxConfig
				var c Command
				if decoder.Decode(&c) != nil {
					return
				}
				a := do(c)
				if a.Number = c.Number; !tell(a) {
					return
				}
			}
		},
		changed: func(list []Change) { tell(Answer{Changed: list}) },
	})
}

// peer is who started the server.
type peer struct {
	listen  func(do func(Command) Answer) // returns when it asks no more
	changed func([]Change)
}

// inherited makes a connection of a descriptor and takes the descriptor over.
func inherited(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "vhost-user")
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is no unix socket", fd), conn.Close())
	}
	return unixConn, nil
}
