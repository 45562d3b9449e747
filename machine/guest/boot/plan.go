package boot

// PlanName is the first member of the payload, the plain tar on the disk with
// serial [PayloadSerial] that a builder works from. The tar's order is the
// order of use: the plan, then the mkfs packages, then the rest.
const PlanName = "plan.json"

// PlanVersion is what this version of the agent builds from. A builder refuses
// any other.
const PlanVersion = 1

// Plan says what a builder makes of the payload. Members of the payload are
// named by their path in the tar, targets by their path in the new root, both
// relative and slash-separated. Every .deb has uncompressed members: the host
// has checked its hash and unpacked its compression.
type Plan struct {
	Version   int        `json:"version"`
	Arch      string     `json:"arch"`      // GOARCH of the image: amd64 or arm64
	Essential []string   `json:"essential"` // debs that are there before dpkg can run
	Packages  []string   `json:"packages"`  // all debs, dependencies first; Essential among them
	Mkfs      []string   `json:"mkfs"`      // debs with mkfs.ext4 and its libraries
	Npm       string     `json:"npm"`       // npm's registry tarball (.tgz), "" for none
	Files     []PlanFile `json:"files"`     // written after the packages
	Lists     []PlanFile `json:"lists"`     // apt's package lists, already verified
	Kernel    bool       `json:"kernel"`    // a kernel package is among Packages: run depmod for its modules
}

// PlanFile copies one member of the payload into the new root. Mode 0 means 0644.
type PlanFile struct {
	Path   string `json:"path"`
	Source string `json:"source"`
	Mode   uint32 `json:"mode,omitempty"`
}
