// Package sshd is the guest's SSH server: one connection over the virtio-serial
// port, from the supervisor and nobody else. It runs commands, serves SFTP,
// forwards to the Docker socket and shuts the guest down; everything else that SSH
// could do is refused.
//
// The supervisor is trusted with the guest, not the other way round: requests are
// bounded all the same, because a mistake there must not end the agent.
package sshd
