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
}
