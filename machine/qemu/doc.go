// Package qemu turns a [Machine] into a running QEMU. [Probe] finds out what this
// host can do, [Args] is a pure function from a machine to a command line (its
// golden files are the review of any change), [Start] runs it.
//
// QEMU gets what it works on as open descriptors: disks, monitor, console, the
// guest's network, the file server. It needs no path of the user, which lets it run
// as a uid of its own that cannot even enter the user's home. It listens on
// nothing but the one socket that carries SSH to the guest, in the sandbox's
// private folder. QEMU's user networking is never used: exactly one -netdev stream,
// whose other end is our gateway, or none.
package qemu
