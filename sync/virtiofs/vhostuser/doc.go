// Package vhostuser is a device's side of QEMU's vhost-user protocol, with split
// virtqueues (https://qemu-project.gitlab.io/qemu/interop/vhost-user.html, VIRTIO 1.2 §2.7).
//
// QEMU's messages are checked though QEMU is trusted more than the guest: a guest
// that took QEMU over must not take this process too. All that lies in the rings
// is the guest's: it is read once, into our own memory, then checked, then used.
//
// Locks: a session handles one message at a time; each queue has a mutex for its
// indexes; a mapping of the guest's memory lives until the last request that uses it is done.
package vhostuser
