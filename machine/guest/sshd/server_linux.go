package sshd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// maxChannels bounds what one connection may open at once.
const maxChannels = 1024

// Server answers one connection after the other.
type Server struct {
	Config   boot.Config
	Starter  Starter // runs commands
	Shutdown func()  // begins the guest's orderly end; must not block
	SetTime  func(time.Time) error
	Log      *slog.Logger
}

// sshConfig accepts the one key that the host made for this sandbox.
func (s *Server) sshConfig() (*ssh.ServerConfig, error) {
	signer, err := ssh.ParsePrivateKey([]byte(s.Config.HostKey))
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	allowed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Config.AuthorizedKey))
	if err != nil {
		return nil, fmt.Errorf("authorized key: %w", err)
	}
	config := &ssh.ServerConfig{
		MaxAuthTries:  1,
		ServerVersion: "SSH-2.0-sbx",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), allowed.Marshal()) {
				return nil, errors.New("not the key of this sandbox")
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(signer)
	return config, nil
}

// Serve answers one connection until it ends. It closes conn.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	config, err := s.sshConfig()
	if err != nil {
		return err
	}
	peer, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	defer peer.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { peer.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { s.global(requests) })
	slots := make(chan struct{}, maxChannels)
	for incoming := range channels {
		select {
		case slots <- struct{}{}:
		default:
			incoming.Reject(ssh.ResourceShortage, "too many channels") //nolint:errcheck // the connection is gone, the loop ends
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			s.channel(ctx, incoming)
		})
	}
	return nil
}

// global answers requests that concern the guest as a whole.
func (s *Server) global(requests <-chan *ssh.Request) {
	for r := range requests {
		switch r.Type {
		case RequestShutdown:
			s.reply(r, true)
			s.Shutdown()
		case RequestSyncTime:
			s.reply(r, s.syncTime(r.Payload) == nil)
		case "keepalive@openssh.com":
			s.reply(r, true)
		default:
			s.reply(r, false)
		}
	}
}

func (s *Server) reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		r.Reply(ok, nil) //nolint:errcheck // the connection is gone, the reader notices
	}
}

func (s *Server) syncTime(payload []byte) error {
	if len(payload) != 8 {
		return fmt.Errorf("time of %d bytes", len(payload))
	}
	return s.SetTime(time.Unix(0, int64(binary.BigEndian.Uint64(payload))))
}

func (s *Server) channel(ctx context.Context, incoming ssh.NewChannel) {
	switch incoming.ChannelType() {
	case "session":
		channel, requests, err := incoming.Accept()
		if err != nil {
			return
		}
		newSession(s, channel).run(ctx, requests)
	case "direct-streamlocal@openssh.com":
		s.forward(ctx, incoming)
	default:
		incoming.Reject(ssh.UnknownChannelType, "only sessions and the docker socket") //nolint:errcheck // see above
	}
}

// forward connects a channel to the Docker socket, the only place there is.
func (s *Server) forward(ctx context.Context, incoming ssh.NewChannel) {
	var target struct {
		Path     string
		Reserved string
		Port     uint32
	}
	if err := ssh.Unmarshal(incoming.ExtraData(), &target); err != nil || target.Path != boot.DockerSocket {
		incoming.Reject(ssh.Prohibited, "only "+boot.DockerSocket) //nolint:errcheck // see above
		return
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", target.Path)
	if err != nil {
		incoming.Reject(ssh.ConnectionFailed, err.Error()) //nolint:errcheck // see above
		return
	}
	defer conn.Close()
	channel, requests, err := incoming.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	// An attached container reads no end of input: when the client or the connection
	// has gone, hanging up is what dockerd understands.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		ssh.DiscardRequests(requests)
		conn.Close()
	}()
	join(channel, conn.(*net.UnixConn))
}

// join copies both ways until both are done; each end of input is passed on.
func join(a ssh.Channel, b *net.UnixConn) {
	var copies sync.WaitGroup
	copies.Go(func() {
		io.Copy(b, a)  //nolint:errcheck // either side may hang up, which is all there is to know
		b.CloseWrite() //nolint:errcheck // see above
	})
	copies.Go(func() {
		io.Copy(a, b)  //nolint:errcheck // see above
		a.CloseWrite() //nolint:errcheck // see above
	})
	copies.Wait()
}
