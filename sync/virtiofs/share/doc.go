// Package share is the file system that a guest sees: a read-only root with one
// folder per export, and below each the host's own files.
//
// Nothing is ever reached by a path: every inode that the guest knows is an O_PATH
// descriptor, a name is one component opened beneath its folder by openat2 with
// RESOLVE_BENEATH, no links followed and no mounts crossed (another file system
// mounted inside an export is refused with EXDEV). A link's target is bytes to us.
//
// Owners: what belongs to the server's user belongs to the guest's; all else to nobody
// (65534). What the guest makes belongs to the server's user, chown does nothing, and
// set-id bits, device nodes and attributes other than user.* are refused.
//
// Protected paths (package guard) are read-only. Where an inode is, the kernel tells
// at the time of the change, from /proc/self/fd; the lock names makes folders stay
// where they are while it is asked. A file that the host's user had linked to a second,
// unprotected name before is not found out, nor two guests who share a folder and move
// it between each other's check and use. Moves out of node_modules, where fewer paths are
// protected, are EXDEV. A git configuration that a guest puts in place is checked and copied.
//
// Caching: a second for attributes and names, none for absence. So the host's changes
// are seen within a second, the guest's own at once. Locks are the guest kernel's
// alone, nothing is written back late, and the descriptors that a guest may hold are
// counted: beyond is ENFILE, and enough are left to carry out a reset.
package share
