package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// pair is a key as the store keeps it, and as a server signs with it.
func pair(t *testing.T) (text string, signer ssh.Signer) {
	t.Helper()
	text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err = ssh.ParsePrivateKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return text, signer
}

// meet has the host shake hands with a fake server of the guest's, and gives both ends.
func meet(t *testing.T, hostKey, clientKey string, server *ssh.ServerConfig) (client *ssh.Client, peer *ssh.ServerConn, err error) {
	t.Helper()
	config, err := clientConfig(hostKey, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := connected(t)
	done := make(chan *ssh.ServerConn, 1)
	go func() {
		peer, channels, requests, err := ssh.NewServerConn(theirs, server)
		if err != nil {
			theirs.Close()
			peer = nil
		} else {
			go ssh.DiscardRequests(requests)
			go refuse(channels)
		}
		done <- peer
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err = handshake(ctx, ours, config)
	return client, <-done, err
}

// connected is a stream and its other end.
func connected(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	if ours, err = d.DialContext(context.Background(), "unix", l.Addr().String()); err == nil {
		theirs, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// anyone is a server that lets everybody in.
func anyone(keys ...ssh.Signer) *ssh.ServerConfig {
	c := &ssh.ServerConfig{NoClientAuth: true}
	for _, k := range keys {
		c.AddHostKey(k)
	}
	return c
}

// TestW106_OtherServers: what is not the one key of this guest, by the one algorithm, is not spoken to.
func TestW106_OtherServers(t *testing.T) {
	hostKey, pinned := pair(t)
	clientKey, _ := pair(t)
	_, other := pair(t)
	weak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	downgraded, err := ssh.NewSignerFromKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	old := anyone(pinned)
	old.KeyExchanges, old.Ciphers = []string{"diffie-hellman-group1-sha1"}, []string{"arcfour"}
	for name, c := range map[string]struct {
		server *ssh.ServerConfig
		want   string // in the error
	}{
		"another key":                 {anyone(other), "host key mismatch"},
		"an algorithm that is weaker": {anyone(downgraded), "no common algorithm for host key"},
		"a cipher that is broken":     {old, "no common algorithm"},
	} {
		client, _, err := meet(t, hostKey, clientKey, c.server)
		if err == nil {
			client.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	client, _, err := meet(t, hostKey, clientKey, anyone(pinned))
	if err != nil {
		t.Fatalf("the guest's own key: %v", err)
	}
	client.Close()
}

// TestW106_WhatTheGuestAsksFor: a guest's server opens no channel to the host, whatever it calls it, and has no
// port forwarded there.
func TestW106_WhatTheGuestAsksFor(t *testing.T) {
	hostKey, pinned := pair(t)
	clientKey, _ := pair(t)
	client, peer, err := meet(t, hostKey, clientKey, anyone(pinned))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, kind := range []string{
		"auth-agent@openssh.com", "x11", "forwarded-tcpip", "forwarded-streamlocal@openssh.com", "direct-tcpip", "direct-streamlocal@openssh.com",
		"session", "tun@openssh.com", "",
	} {
		_, _, err := peer.OpenChannel(kind, nil)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("channel %q: %v", kind, err)
		}
	}
	for _, request := range []string{
		"tcpip-forward", "streamlocal-forward@openssh.com", "auth-agent-req@openssh.com", "hostkeys-00@openssh.com", "hostkeys-prove-00@openssh.com",
	} {
		if ok, _, err := peer.SendRequest(request, true, nil); ok || err != nil {
			t.Errorf("request %q: granted %v, %v", request, ok, err)
		}
	}
	// The host's own requests still work: none of this ended the connection.
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
