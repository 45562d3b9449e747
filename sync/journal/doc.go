// Package journal keeps what a guest is about to change, so that it can be taken back.
//
// A journal is a folder of numbered checkpoints, each an append-only log of records, a
// checksum before each, and the contents that the records name. Before the guest's change
// of a path its state is kept, unless it is what the guest itself left there since the
// checkpoint; after the change, what the guest left is noted. So a later edit of the
// host's user is told from the guest's own: it is kept as well, and an undo stops at it.
//
// A content is in the store and its record is written before Before returns: a crash of
// the process loses neither. Nothing is synced to disk: after a power cut the last seconds
// may be missing, and a torn end of a log is left out when it is read. Copies share blocks
// where the file system can (copy_file_range). What is too big is recorded as lost, in
// the log as well.
//
// One version is told from the next by inode, size, mode and times. Linux before 6.13 has
// times of some milliseconds: an edit of the same size within that after the guest's own
// passes for the guest's. An undo keeps it all the same, a further write of the guest's not.
//
// Every access to the workspace goes through an os.Root.
package journal
