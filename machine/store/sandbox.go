package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/netfilter"
)

// Sandbox is the files of one sandbox.
type Sandbox struct {
	store             *Store
	name, dir, socket string
}

// Name is the sandbox's.
func (b *Sandbox) Name() string { return b.name }

// Paths of the sandbox's files.
func (b *Sandbox) Disk() string          { return filepath.Join(b.dir, "disk.qcow2") }
func (b *Sandbox) Initrd() string        { return filepath.Join(b.dir, "initrd.cpio") }
func (b *Sandbox) MirrorState() string   { return b.file("mirror.state") }
func (b *Sandbox) ConsoleLog() string    { return b.log("console") }
func (b *Sandbox) NetLog() string        { return b.log("net") }
func (b *Sandbox) DockerLog() string     { return b.log("docker") }
func (b *Sandbox) FilesLog() string      { return b.log("files") }
func (b *Sandbox) SupervisorLog() string { return b.log("supervisor") }
func (b *Sandbox) ControlSocket() string { return b.socket + ".ctl" }
func (b *Sandbox) SSHSocket() string     { return b.socket + ".ssh" }
func (b *Sandbox) ShareSocket() string   { return b.socket + ".fs" }

func (b *Sandbox) log(kind string) string  { return filepath.Join(b.dir, "logs", kind+".log") }
func (b *Sandbox) file(name string) string { return filepath.Join(b.dir, name) }

// ReadSpec reads what was asked for. A sandbox that does not exist is
// [fs.ErrNotExist].
func (b *Sandbox) ReadSpec() (machine.Spec, error) {
	if !ValidName(b.name) {
		return machine.Spec{}, fmt.Errorf("sandbox name %q: wants letters a-z, digits and -, 39 at most: %w", b.name, fs.ErrNotExist)
	}
	var spec machine.Spec
	err := readJSON(b.file("spec.json"), &spec, func() int { return spec.Version })
	if err == nil && spec.Name != b.name {
		err = fmt.Errorf("%s: is of sandbox %q", b.file("spec.json"), spec.Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// A folder without a spec is a broken sandbox, no missing one.
		if _, statErr := os.Stat(b.dir); statErr == nil {
			return spec, fmt.Errorf("sandbox %q has no spec.json: delete what is left of it with sbx rm -f %s", b.name, b.name)
		}
	}
	return spec, err
}

// WriteSpec makes the sandbox, or changes what is asked of it. The caller holds Work.
func (b *Sandbox) WriteSpec(spec machine.Spec) error {
	if !ValidName(b.name) || spec.Name != b.name {
		return fmt.Errorf("sandbox name %q: wants letters a-z, digits and -, 39 at most", spec.Name)
	}
	if err := os.MkdirAll(filepath.Join(b.dir, "logs"), 0o700); err != nil {
		return err
	}
	spec.Version = machine.SpecVersion
	return writeJSON(b.file("spec.json"), spec)
}

// Process is one that a supervisor started, so that its successor can end it: a
// pid alone may be somebody else's by then.
type Process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // start time as the system tells it, compared only for equality
}

// Record is who works on a sandbox, or how its last run ended. Version is 1.
type Record struct {
	Version    int            `json:"version"`
	BootID     string         `json:"boot_id"` // of the host: processes of another boot are gone
	State      machine.State  `json:"state"`
	Reason     string         `json:"reason,omitempty"`
	Accel      string         `json:"accel,omitempty"`
	Started    time.Time      `json:"started,omitzero"`
	Supervisor Process        `json:"supervisor,omitzero"`
	Children   []Process      `json:"children,omitempty"`
	Ports      []machine.Port `json:"ports,omitempty"`
}

const recordVersion = 1

// ReadRecord reads the record; a sandbox that never ran has none, which is
// [machine.Stopped].
func (b *Sandbox) ReadRecord() (Record, error) {
	var r Record
	err := readJSON(b.file("record.json"), &r, func() int { return r.Version })
	if errors.Is(err, fs.ErrNotExist) {
		return Record{Version: recordVersion, State: machine.Stopped}, nil
	}
	return r, err
}

// WriteRecord replaces the record. Only who holds the life lock may.
func (b *Sandbox) WriteRecord(r Record) error {
	r.Version, r.BootID = recordVersion, bootID()
	return writeJSON(b.file("record.json"), r)
}

type rulesFile struct {
	Version int              `json:"version"`
	Rules   []netfilter.Rule `json:"rules"`
}

// ReadRules reads the rules that `sbx policy allow` and `deny` made.
func (b *Sandbox) ReadRules() ([]netfilter.Rule, error) {
	var f rulesFile
	err := readJSON(b.file("rules.json"), &f, func() int { return f.Version })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f.Rules, err
}

// WriteRules replaces them.
func (b *Sandbox) WriteRules(rules []netfilter.Rule) error {
	return writeJSON(b.file("rules.json"), rulesFile{Version: 1, Rules: rules})
}

// Keys are what is made on the host for this sandbox alone, in PEM: the SSH keys between supervisor and
// guest, and the authority that signs for intercepted names. Placeholders are what the guest has in
// place of secrets, by their names.
type Keys struct {
	Version      int               `json:"version"`
	Host         string            `json:"host"`   // the guest's server key
	Client       string            `json:"client"` // the supervisor's
	CACert       string            `json:"ca_cert,omitempty"`
	CAKey        string            `json:"ca_key,omitempty"`
	Placeholders map[string]string `json:"placeholders,omitempty"`
}

// ReadKeys reads them; [fs.ErrNotExist] before the first start.
func (b *Sandbox) ReadKeys() (Keys, error) {
	var k Keys
	err := readJSON(b.file("keys.json"), &k, func() int { return k.Version })
	return k, err
}

// WriteKeys replaces them.
func (b *Sandbox) WriteKeys(k Keys) error {
	k.Version = 1
	return writeJSON(b.file("keys.json"), k)
}

// JournalDir is where the file server keeps what the guest changes of the workspace.
func (b *Sandbox) JournalDir() string { return b.file("journal") }

// RemoveDisk deletes the guest's disk; the next start makes a new one. The caller
// holds Work and the sandbox is down.
func (b *Sandbox) RemoveDisk() error {
	return errors.Join(removeIfThere(b.Disk()), removeIfThere(b.file("keys.json")))
}

// Remove deletes the sandbox. The caller holds Work and the sandbox is down. It can
// be done again after an interruption: the spec goes last.
func (b *Sandbox) Remove() error {
	if !ValidName(b.name) {
		return fmt.Errorf("sandbox name %q is none", b.name)
	}
	b.removeSockets()
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "spec.json" {
			continue
		}
		if err := os.RemoveAll(b.file(e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(b.dir)
}

func (b *Sandbox) removeSockets() {
	for _, path := range []string{b.ControlSocket(), b.SSHSocket(), b.ShareSocket()} {
		os.Remove(path) //nolint:errcheck // mostly it is not there
	}
}
