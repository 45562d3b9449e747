package debian

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"

	"pault.ag/go/debian/version"
)

// Package is one stanza of a Packages file: what resolution and download need.
// Relations are kept as text and parsed for the few packages that are looked at.
type Package struct {
	Name         string
	Version      string
	Architecture string
	Priority     string
	Essential    bool
	Filename     string // below the mirror's base
	Size         int64
	SHA256       string
	Depends      string
	PreDepends   string
	Provides     string
	Conflicts    string
	Breaks       string
	URL          string // filled in by Repo.Load
}

// ParsePackages reads a Packages file. It is strict about what is used (name,
// version, file name, size, hash) and deaf to all other fields. A reflecting
// decoder takes many times as long for the same 57 MB.
func ParsePackages(data []byte, arch string) ([]Package, error) {
	var list []Package
	for len(data) > 0 {
		var stanza []byte
		if i := bytes.Index(data, []byte("\n\n")); i >= 0 {
			stanza, data = data[:i], data[i+2:]
		} else {
			stanza, data = data, nil
		}
		stanza = bytes.Trim(stanza, "\n")
		if len(stanza) == 0 {
			continue
		}
		p, err := parseStanza(stanza)
		if err != nil {
			return nil, err
		}
		if p.Architecture != arch && p.Architecture != "all" {
			continue
		}
		list = append(list, p)
	}
	return list, nil
}

func parseStanza(stanza []byte) (Package, error) {
	var p Package
	for line := range bytes.SplitSeq(stanza, []byte("\n")) {
		if len(line) == 0 || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		field, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return p, fmt.Errorf("package index: odd line %q", line)
		}
		if err := p.set(string(field), value); err != nil {
			return p, err
		}
	}
	return p, p.check()
}

func (p *Package) set(field string, raw []byte) error {
	slot := p.slot(field)
	if slot != nil {
		*slot = string(bytes.TrimSpace(raw))
		return nil
	}
	switch field {
	case "Essential":
		p.Essential = string(bytes.TrimSpace(raw)) == "yes"
	case "Size":
		size, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
		if err != nil || size <= 0 {
			return fmt.Errorf("package index: %s: odd size %q", p.Name, raw)
		}
		p.Size = size
	}
	return nil
}

func (p *Package) slot(field string) *string {
	switch field {
	case "Package":
		return &p.Name
	case "Version":
		return &p.Version
	case "Architecture":
		return &p.Architecture
	case "Priority":
		return &p.Priority
	case "Filename":
		return &p.Filename
	case "SHA256":
		return &p.SHA256
	case "Depends":
		return &p.Depends
	case "Pre-Depends":
		return &p.PreDepends
	case "Provides":
		return &p.Provides
	case "Conflicts":
		return &p.Conflicts
	case "Breaks":
		return &p.Breaks
	}
	return nil
}

// check refuses a stanza that could not be downloaded or would write elsewhere.
func (p *Package) check() error {
	if !validName(p.Name) {
		return fmt.Errorf("package index: odd package name %q", p.Name)
	}
	if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 {
		return fmt.Errorf("package index: %s: no sha256", p.Name)
	}
	clean := path.Clean("/" + p.Filename)
	if p.Filename == "" || clean != "/"+p.Filename || !strings.HasSuffix(clean, ".deb") {
		return fmt.Errorf("package index: %s: odd file name %q", p.Name, p.Filename)
	}
	if p.Version == "" || p.Size == 0 {
		return fmt.Errorf("package index: %s: no version or size", p.Name)
	}
	return nil
}

// validName is the Debian policy's form of a package name (5.6.7).
func validName(name string) bool {
	if len(name) < 2 || len(name) > 128 {
		return false
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// compare orders two Debian versions; what does not parse comes first.
func compare(a, b string) int {
	va, errA := version.Parse(a)
	vb, errB := version.Parse(b)
	switch {
	case errA != nil && errB != nil:
		return strings.Compare(a, b)
	case errA != nil:
		return -1
	case errB != nil:
		return 1
	}
	return version.Compare(va, vb)
}
