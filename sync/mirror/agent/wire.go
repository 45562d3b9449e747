//go:build unix

// Package agent is how a mirror reads and changes the guest's copy without asking for each
// name: the guest's end runs there, [Client] on the host. It speaks JSON lines over a
// stream; the contents of files do not pass here but over SFTP.
//
// The client believes nothing: each name that it is told is checked to be one, each
// line and each answer is bounded, and each call has a deadline. Names are bytes, hence base64.
package agent

import (
	"errors"
	"fmt"

	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// Bounds of the protocol. The longest honest line is an answer of perLine entries, whose
// paths and targets have 4095 bytes each.
const (
	maxLine = 8 << 20
	perLine = 256
)

// Operations.
const (
	opScan    = "scan"    // Paths; answers entries
	opSums    = "sums"    // Paths[0]; answers hashes
	opClone   = "clone"   // Paths[0]; answers a staged name
	opStaged  = "staged"  // Name; answers one entry
	opDrop    = "drop"    // Name
	opApply   = "apply"   // Steps; answers faults, one for each
	opFlush   = "flush"   //
	opMark    = "mark"    // answers text
	opSetMark = "setmark" // Name is the mark
	opPrepare = "prepare" // makes the staging folder and clears it
)

type request struct {
	ID    uint64   `json:"id"`
	Op    string   `json:"op"`
	Paths [][]byte `json:"paths,omitempty"`
	Name  string   `json:"name,omitempty"`
	Steps []step   `json:"steps,omitempty"`
}

// reply is one line of the guest. ID 0 is an event: Dirty. A scan's answer has several
// lines, all but the last with More.
type reply struct {
	ID      uint64   `json:"id"`
	Error   string   `json:"error,omitempty"`
	Entries []entry  `json:"entries,omitempty"`
	Hashes  [][]byte `json:"hashes,omitempty"`
	Text    string   `json:"text,omitempty"`
	Faults  []fault  `json:"faults,omitempty"`
	More    bool     `json:"more,omitempty"`
	Dirty   [][]byte `json:"dirty,omitempty"`
	Note    string   `json:"note,omitempty"`
}

// fault is why a step was not done. Changed: disk.ErrChanged.
type fault struct {
	Text    string `json:"text,omitempty"`
	Changed bool   `json:"changed,omitempty"`
}

type entry struct {
	Path   []byte `json:"p,omitempty"`
	Kind   uint8  `json:"k"`
	Exec   bool   `json:"x,omitempty"`
	Size   int64  `json:"n,omitempty"`
	Hash   []byte `json:"h,omitempty"`
	Target []byte `json:"t,omitempty"`
}

type step struct {
	Op     uint8  `json:"op"`
	Path   []byte `json:"path"`
	To     []byte `json:"to,omitempty"`
	Have   entry  `json:"have"`
	Want   entry  `json:"want"`
	Staged string `json:"staged,omitempty"`
}

func toEntry(path string, e tree.Entry) entry {
	out := entry{Path: []byte(path), Kind: uint8(e.Kind), Exec: e.Exec, Size: e.Size, Target: []byte(e.Target)}
	if e.Kind == tree.File {
		out.Hash = e.Hash[:]
	}
	return out
}

var errHostile = errors.New("the guest's agent answers nonsense")

const maxReason = 200 // bytes of a reason that the guest gives

func (e entry) entry() (tree.Entry, error) {
	out := tree.Entry{Kind: tree.Kind(e.Kind), Exec: e.Exec, Size: e.Size, Target: string(e.Target)}
	switch out.Kind {
	case tree.None, tree.Folder:
		return tree.Entry{Kind: out.Kind}, nil
	case tree.File:
		if len(e.Hash) != len(out.Hash) || e.Size < 0 {
			break
		}
		copy(out.Hash[:], e.Hash)
		out.Target = ""
		return out, nil
	case tree.Link:
		return tree.Entry{Kind: tree.Link, Target: out.Target}, nil
	case tree.Unknown:
		return tree.Entry{Kind: tree.Unknown, Target: fmt.Sprintf("in the guest: %q", bounded(out.Target))}, nil
	}
	return tree.Entry{}, fmt.Errorf("%w: entry of kind %d, size %d, hash of %d bytes", errHostile, e.Kind, e.Size, len(e.Hash))
}

func toStep(s disk.Step) step {
	return step{
		Op: uint8(s.Op), Path: []byte(s.Path), To: []byte(s.To), Have: toEntry("", s.Have), Want: toEntry("", s.Want), Staged: s.Staged,
	}
}

func (s step) step() (disk.Step, error) {
	have, errHave := s.Have.entry()
	want, errWant := s.Want.entry()
	return disk.Step{Action: tree.Action{Op: tree.Op(s.Op), Side: tree.Guest, Path: string(s.Path), To: string(s.To), Have: have, Want: want}, Staged: s.Staged},
		errors.Join(errHave, errWant)
}
