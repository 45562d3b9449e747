// Package control is how the command line talks to the supervisor of a sandbox:
// HTTP with JSON over a unix socket (mode 0600, in a private folder), and for
// streams a connection that both take over after the request. The package holds
// the client and what goes over the wire; package server answers.
//
// A supervisor may be older or newer than the command line: [Protocol] is told in
// the first answer, and a client refuses what it does not understand.
package control

import (
	"strconv"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
)

// Protocol is the version of everything below.
const Protocol = 1

// Paths of the requests.
const (
	PathStatus     = "/v1/status"
	PathStop       = "/v1/stop"
	PathExec       = "/v1/exec"
	PathSFTP       = "/v1/sftp"
	PathDocker     = "/v1/docker"
	PathPolicy     = "/v1/policy"
	PathDenials    = "/v1/denials"
	PathPending    = "/v1/pending"
	PathAnswer     = "/v1/answer"
	PathLive       = "/v1/live"
	PathSecrets    = "/v1/secrets"
	PathCheckpoint = "/v1/checkpoint"
	PathFlush      = "/v1/flush"
	PathMirror     = "/v1/mirror"
	PathChanges    = "/v1/changes"
	PathContent    = "/v1/content"
	PathApply      = "/v1/apply"
)

// HeaderProtocol carries [Protocol] in every answer.
const HeaderProtocol = "Sbx-Protocol"

// Failure is the body of an answer that is no success.
type Failure struct {
	Error string `json:"error"`
}

// ExecRequest is a command for the guest. The words are run as they are.
type ExecRequest struct {
	Argv []string          `json:"argv,omitempty"` // empty: a login shell
	Dir  string            `json:"dir,omitempty"`  // absolute path in the guest; default: the workspace
	User string            `json:"user,omitempty"` // default: the sandbox's user
	Env  map[string]string `json:"env,omitempty"`
	TTY  bool              `json:"tty,omitempty"`
	Term string            `json:"term,omitempty"`
	Rows int               `json:"rows,omitempty"`
	Cols int               `json:"cols,omitempty"`
}

// WinSize is a terminal's size in characters.
type WinSize struct {
	Rows int `json:"rows"`
	Cols int `json:"cols"`
}

// Exit is how a command ended: by itself with Status, or by Signal (SSH's name,
// "TERM", or a number for one without a name).
type Exit struct {
	Status int    `json:"status"`
	Signal string `json:"signal,omitempty"`
}

// Code is the exit status as a shell gives it: 128+N for signal N.
func (e Exit) Code() int {
	if e.Signal == "" {
		return e.Status
	}
	// Linux's numbers: the guest is Linux whatever the host is.
	for n, name := range []string{
		"", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
		"CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
	} {
		if name == e.Signal {
			return 128 + n
		}
	}
	if n, err := strconv.Atoi(e.Signal); err == nil && n > 0 && n < 128 {
		return 128 + n
	}
	return 255
}

// PolicyView is the network's rules as they are in force.
type PolicyView struct {
	Default  netfilter.Action `json:"default"`
	Rules    []netfilter.Rule `json:"rules"` // strongest first, those of presets as well
	Spec     netfilter.Spec   `json:"spec"`  // what compiles to them, without the way out of the host
	Warnings []string         `json:"warnings,omitempty"`
}

// PolicyEdit changes the rules that were made at run time. All of it takes effect or
// nothing.
type PolicyEdit struct {
	Add    []netfilter.Rule `json:"add,omitempty"`
	Remove []netfilter.Rule `json:"remove,omitempty"` // by Action and Pattern; an empty Action is either
}

// Question is a connection that waits for the user's answer.
type Question struct {
	ID    uint64    `json:"id"`
	Name  string    `json:"name"` // canonical, A-labels
	Port  uint16    `json:"port"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // then it is refused
	Count int       `json:"count"` // connections that wait
}

// Pending is the questions that are open. Seen is what WaitPending takes to wait for a change.
type Pending struct {
	Seen      uint64     `json:"seen"`
	Questions []Question `json:"questions"`
}

// Scopes of an [Answer].
const (
	ScopeOnce = "once" // the connections that wait, no others
	ScopeRun  = "run"  // and all later ones until the sandbox stops
)

// Answer is the user's word on one question.
type Answer struct {
	ID    uint64 `json:"id"`
	Allow bool   `json:"allow"`
	Scope string `json:"scope"`
}

// Connection is one that is open now.
type Connection struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Addr      string    `json:"addr,omitempty"` // that was dialled
	Port      uint16    `json:"port"`
	Proto     string    `json:"proto,omitempty"`
	Rule      string    `json:"rule,omitempty"`
	Started   time.Time `json:"started"`
	BytesUp   int64     `json:"bytes_up"`
	BytesDown int64     `json:"bytes_down"`
}

// CheckpointRequest asks for a checkpoint of the workspace's journal; the answer is a [Checkpoint].
type CheckpointRequest struct {
	Label string `json:"label"`
}

// Checkpoint is one that was made.
type Checkpoint struct {
	ID int `json:"id"`
}

// What a [MirrorRequest] can ask for.
const (
	MirrorFlush   = "flush"   // both copies the same, now
	MirrorConfirm = "confirm" // flush, and the user agrees to what halted the mirror
	MirrorReset   = "reset"   // forget what both agreed on: nothing is deleted, what differs is a conflict
)

// MirrorRequest is for the copy of the workspace in modes sync and review; the answer is a
// machine.Mirror.
type MirrorRequest struct {
	Do string `json:"do"`
}

// Change is what the guest changed in its copy and Apply could bring to the host.
type Change struct {
	ID    string  `json:"id"`   // of this content on both sides
	Path  string  `json:"path"` // named by the guest: quote it before it is printed
	Host  Version `json:"host"` // before; no Kind: the guest made it
	Guest Version `json:"guest"`
	// Refused is why Apply does not take it unless it is forced; Never, that it does not even then.
	Refused string `json:"refused,omitempty"`
	Never   bool   `json:"never,omitempty"`
}

// Version is one side of a change.
type Version struct {
	Kind   string `json:"kind,omitempty"` // file, folder or link; empty: nothing is there
	Exec   bool   `json:"exec,omitempty"`
	Size   int64  `json:"size,omitempty"`   // bytes of a file
	Target string `json:"target,omitempty"` // of a link
}

// Content is both versions of a small file; nil for a side that has none.
type Content struct {
	Host  []byte `json:"host"`
	Guest []byte `json:"guest"`
}

// Pick is a change that the user agreed to; Force takes a refused one.
type Pick struct {
	ID    string `json:"id"`
	Force bool   `json:"force,omitempty"`
}

// Applied is what became of a pick. Reason is empty if it was taken.
type Applied struct {
	Change Change `json:"change"`
	Reason string `json:"reason,omitempty"`
}

// Since is the query of PathDenials.
type Since struct {
	Time time.Time `json:"time"`
}
