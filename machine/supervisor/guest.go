package supervisor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
)

// Times of the connection to the guest.
const (
	bootLimit      = 60 * time.Second // five times that under emulation
	handshakeLimit = 30 * time.Second
	keepaliveEvery = 10 * time.Second
	keepaliveLimit = 30 * time.Second
	reconnectLimit = 15 * time.Second // how long a command waits for a lost connection
)

// guest is the one SSH connection, kept up for as long as the machine runs.
type guest struct {
	s       *Supervisor
	console *console
	config  *ssh.ClientConfig
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	mu     sync.Mutex
	client *ssh.Client
	up     chan struct{} // closed while there is a client
}

func newGuest(s *Supervisor, c *console) *guest {
	g := &guest{s: s, console: c, up: make(chan struct{}), stopped: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// startGuest returns when the guest has answered for the first time.
func (s *Supervisor) startGuest(ctx context.Context) error {
	s.o.Tell(Message{Phase: PhaseGuest})
	keys, err := s.files.ReadKeys()
	if err != nil {
		return err
	}
	if s.guest.config, err = clientConfig(keys.Host, keys.Client); err != nil {
		return err
	}
	go s.guest.keep()
	limit := bootLimit
	if s.host.Accel == machine.TCG {
		limit *= 5
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-s.guest.up:
		go s.followDocker()
		go s.nudgeGuest()
		return nil
	case <-s.qemu.Done():
		<-s.guest.console.done
		return fmt.Errorf("the machine ended while it booted: %s", s.guest.lastWords())
	case <-s.share.ended():
		return fmt.Errorf("the file server ended: %s", s.share.why())
	case <-s.stop:
		return errors.New("it was stopped while it booted")
	case <-ctx.Done():
		return fmt.Errorf("took no command within %v (accelerator %s): %s", limit, s.host.Accel, s.guest.lastWords())
	}
}

// lastWords is what helps to see why a guest is silent.
func (g *guest) lastWords() string {
	if last := g.console.log.last(); last != "" {
		return fmt.Sprintf("the last it said was %q", last)
	}
	return "it said nothing: SBX_ACCEL=tcg tries without hardware virtualization"
}

// clientConfig pins the guest's host key: there is one, made here.
func clientConfig(hostKey, clientKey string) (*ssh.ClientConfig, error) {
	host, err := ssh.ParsePrivateKey([]byte(hostKey))
	if err != nil {
		return nil, fmt.Errorf("keys of the sandbox: %w", err)
	}
	client, err := ssh.ParsePrivateKey([]byte(clientKey))
	if err != nil {
		return nil, fmt.Errorf("keys of the sandbox: %w", err)
	}
	return &ssh.ClientConfig{
		User: "sbx", Auth: []ssh.AuthMethod{ssh.PublicKeys(client)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, ClientVersion: "SSH-2.0-sbx",
	}, nil
}

// keep holds the connection up until close: the guest's server may be restarted.
func (g *guest) keep() {
	defer close(g.stopped)
	for g.ctx.Err() == nil {
		client, err := g.connect()
		if err != nil {
			g.s.o.Log.Debug("connect to the guest", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-g.ctx.Done():
			}
			continue
		}
		g.set(client)
		g.watch(client)
		g.set(nil)
		client.Close()
	}
}

func (g *guest) connect() (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(g.ctx, handshakeLimit)
	defer cancel()
	conn, err := g.s.qemu.DialSSH(ctx)
	if err != nil {
		return nil, err
	}
	return handshake(ctx, conn, g.config)
}

// handshake makes a connection of the stream, which it closes if that fails.
func handshake(ctx context.Context, conn net.Conn, config *ssh.ClientConfig) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	peer, channels, requests, err := ssh.NewClientConn(conn, "guest", config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if !stop() {
		peer.Close()
		return nil, ctx.Err()
	}
	// The guest has no business opening channels to the host.
	go refuse(channels)
	return ssh.NewClient(peer, nil, requests), nil
}

func refuse(channels <-chan ssh.NewChannel) {
	for c := range channels {
		c.Reject(ssh.Prohibited, "the host takes no channels") //nolint:errcheck // the connection is gone
	}
}

func (g *guest) set(client *ssh.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if client == nil && g.client != nil {
		g.up = make(chan struct{})
	}
	if client != nil {
		close(g.up)
	}
	g.client = client
}

// watch sends the time and asks for a sign of life until the connection ends. It
// does not count the time in which the guest was paused.
func (g *guest) watch(client *ssh.Client) {
	ended := make(chan struct{})
	go func() {
		client.Wait() //nolint:errcheck // why it ended is of no use: the next attempt tells
		close(ended)
	}()
	tick := time.NewTicker(keepaliveEvery)
	defer tick.Stop()
	for {
		if !g.syncTime(client) && !g.paused() {
			g.s.o.Log.Warn("the guest's server does not answer, connecting again")
			client.Close()
		}
		select {
		case <-ended:
			return
		case <-g.ctx.Done():
			client.Close()
			<-ended
			return
		case <-tick.C:
		}
	}
}

func (g *guest) paused() bool {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return g.s.record.State == machine.Paused
}

// syncTime tells the guest the host's time; the answer is also the sign of life.
// After a host's sleep the guest is right within one tick.
func (g *guest) syncTime(client *ssh.Client) bool {
	answered := make(chan error, 1)
	go func() {
		payload := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		_, _, err := client.SendRequest(sshd.RequestSyncTime, true, payload)
		answered <- err
	}()
	select {
	case err := <-answered:
		return err == nil
	case <-time.After(g.s.patience(keepaliveLimit)):
		return false
	case <-g.ctx.Done():
		return true
	}
}

// connection gives the client, after a wait if it is being made anew.
func (g *guest) connection(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, reconnectLimit)
	defer cancel()
	for {
		g.mu.Lock()
		client, up := g.client, g.up
		g.mu.Unlock()
		if client != nil {
			return client, nil
		}
		select {
		case <-up:
		case <-g.ctx.Done():
			return nil, errors.New("the sandbox is ending")
		case <-ctx.Done():
			return nil, errors.New("the guest does not answer: sbx logs --kind boot")
		}
	}
}

// shutDown asks the guest to end in order.
func (g *guest) shutDown(ctx context.Context) error {
	client, err := g.connection(ctx)
	if err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() {
		_, _, err := client.SendRequest(sshd.RequestShutdown, true, nil)
		asked <- err
	}()
	select {
	case err := <-asked:
		if errors.Is(err, io.EOF) { // it was quicker than its answer
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *guest) close() {
	g.cancel()
	if g.config != nil {
		<-g.stopped
	}
}

// docker opens a stream to the guest's Docker socket.
func (g *guest) docker(ctx context.Context) (net.Conn, error) {
	client, err := g.connection(ctx)
	if err != nil {
		return nil, err
	}
	return client.DialContext(ctx, "unix", boot.DockerSocket)
}
