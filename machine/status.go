package machine

import "time"

// State is where a sandbox is in its life.
type State string

// The states. Creating, Starting and Stopping are seen only while a supervisor
// or a command works on the sandbox. Crashed means that the last run did not end
// by a stop; Broken that the sandbox's files cannot be read.
const (
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused" // QEMU halted the guest, see Status.Reason (a full host disk)
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Crashed  State = "crashed"
	Broken   State = "broken"
)

// Accelerators.
const (
	KVM = "kvm"
	HVF = "hvf"
	TCG = "tcg"
)

// Status is how a sandbox stands. It is what `sbx ls --json` and `sbx status
// --json` print, so its field names are an interface.
type Status struct {
	Name       string    `json:"name"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"` // why crashed, broken or paused, for a person
	Project    string    `json:"project,omitempty"`
	Arch       string    `json:"arch,omitempty"`
	Accel      string    `json:"accel,omitempty"`
	CPUs       int       `json:"cpus,omitempty"`
	Memory     Bytes     `json:"memory,omitempty"`
	Disk       Bytes     `json:"disk,omitempty"`
	Image      string    `json:"image,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	Supervisor int       `json:"supervisor_pid,omitempty"`
	QEMU       int       `json:"qemu_pid,omitempty"`
	FileServer int       `json:"file_server_pid,omitempty"`
	Ports      []Port    `json:"ports,omitempty"`
	Mode       string    `json:"mode,omitempty"`   // of the workspace
	Mirror     *Mirror   `json:"mirror,omitempty"` // modes sync and review, while it runs
}

// Mirror is how far the two copies of the workspace are in step. The guest names the paths: they are quoted
// before they are printed. Of each list the first ones are here; Count fields tell of all.
type Mirror struct {
	State     string    `json:"state"`             // connecting, scanning, watching or halted
	Problem   string    `json:"problem,omitempty"` // why it is not connected
	Halts     []string  `json:"halts,omitempty"`   // why nothing is done before somebody was asked
	Held      []Held    `json:"held,omitempty"`    // what stays on its side
	HeldCount int       `json:"held_count,omitempty"`
	Conflicts []string  `json:"conflicts,omitempty"` // files that hold the guest's version of a conflict
	Failed    []string  `json:"failed,omitempty"`    // what could not be done and is tried again
	Notes     []string  `json:"notes,omitempty"`     // limits that were met
	Waiting   int       `json:"waiting,omitempty"`   // mode review: changes of the guest that wait for the user
	Files     int       `json:"files"`               // entries of the host's copy
	Copied    int64     `json:"copied_bytes"`        // since the start
	Synced    time.Time `json:"synced,omitzero"`     // when both were last in step
}

// Held is a path that is not mirrored, and why.
type Held struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}
