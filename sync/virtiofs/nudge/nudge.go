// Package nudge raises, in a guest, the events of what the host's user changed in a share: none crosses
// virtiofs by itself. The guest's agent asks for changes that change nothing, and the file server, which
// knows them, does nothing about them; the guest's kernel tells its watchers all the same.
package nudge

// Offset and Length of a fallocate(2) with FALLOC_FL_KEEP_SIZE that is a nudge. No file reaches there.
const (
	Offset = 1 << 62
	Length = 1
)

// Change is one that the host's user made.
type Change struct {
	Path []byte `json:"path"` // absolute, in the guest
	// Plain says that the file may be opened for writing, which raises the events that most watchers wait
	// for; protected and masked ones may not.
	Plain bool `json:"plain,omitempty"`
}
