package configs

// File is sbx.yaml as it is written. The schema is generated from it.
type File struct {
	Version   int             `yaml:"version" jsonschema:"enum=1,description=version of this format"`
	Name      string          `yaml:"name" jsonschema:"pattern=^[a-z0-9][a-z0-9-]{0\\,38}$,description=name of the sandbox; the folder's name by default"`
	Agent     string          `yaml:"agent" jsonschema:"description=preset of a coding agent: its installation and the hosts that it talks to"`
	Resources Resources       `yaml:"resources" jsonschema:"description=size of the machine"`
	Image     Image           `yaml:"image" jsonschema:"description=what the guest is made of"`
	Workspace Workspace       `yaml:"workspace" jsonschema:"description=the project's folder in the guest"`
	Network   Network         `yaml:"network" jsonschema:"description=what the guest may reach; nothing by default"`
	Ports     []Port          `yaml:"ports" jsonschema:"description=guest ports published on the host: 3000 or 8080:80 or 127.0.0.1:8080:80"`
	Env       map[string]Text `yaml:"env" jsonschema:"description=environment of commands in the guest"`
	Docker    Docker          `yaml:"docker" jsonschema:"description=the guest's own Docker"`
	Secrets   []Secret        `yaml:"secrets" jsonschema:"description=keys that are put into requests on the way out and never enter the guest"`
}

// UserFile is ~/.config/sbx/config.yaml: what holds for all projects.
type UserFile struct {
	Version   int           `yaml:"version"`
	Agent     string        `yaml:"agent"`
	Resources Resources     `yaml:"resources"`
	Image     UserImage     `yaml:"image"`
	Workspace UserWorkspace `yaml:"workspace"`
	Network   UserNetwork   `yaml:"network"`
	Docker    Docker        `yaml:"docker"`
	Secrets   []UserSecret  `yaml:"secrets"`
}

// Resources is the size of the machine.
type Resources struct {
	CPUs   int  `yaml:"cpus" jsonschema:"minimum=1,maximum=256,description=number of virtual CPUs; 4 or as many as the host has"`
	Memory Size `yaml:"memory" jsonschema:"description=4GiB or a quarter of the host's by default"`
	Disk   Size `yaml:"disk" jsonschema:"description=20GiB by default; takes space as it fills"`
}

// Image is what the guest is made of. Run and Packages are cached by content.
type Image struct {
	Base     string `yaml:"base" jsonschema:"enum=debian-13,description=built-in recipe"`
	Packages []Text `yaml:"packages" jsonschema:"description=Debian packages"`
	Run      []Text `yaml:"run" jsonschema:"description=shell commands run in the guest when the image is made"`
	Mirror   string `yaml:"mirror" jsonschema:"format=uri,description=where Debian packages are fetched from"`
}

// UserImage is the part of Image that holds for all projects.
type UserImage struct {
	Base   string `yaml:"base"`
	Mirror string `yaml:"mirror"`
}

// Workspace is the project's folder in the guest and what is shared beside it.
type Workspace struct {
	Mode    string  `yaml:"mode" jsonschema:"enum=mount,enum=sync,enum=review,description=the guest has the folder itself or a copy kept the same or one to apply"`
	Path    string  `yaml:"path" jsonschema:"description=where the folder stands in the guest; at the same absolute path by default"`
	Mounts  []Mount `yaml:"mounts" jsonschema:"description=more folders of the host"`
	Protect []Text  `yaml:"protect" jsonschema:"description=more paths that the guest may read and never write"`
	Mask    []Text  `yaml:"mask" jsonschema:"description=more files whose content the guest never sees; with ! before one it does"`
	Ignore  []Text  `yaml:"ignore" jsonschema:"description=rules as in a .gitignore for what modes sync and review leave alone on both sides"`
	Reserve Reserve `yaml:"reserve" jsonschema:"description=of the host's disk the guest leaves this free; 1GiB by default; here only more"`
}

// UserWorkspace is what of the workspace is the user's word alone.
type UserWorkspace struct {
	Server  Text    `yaml:"server"`  // sbx, or virtiofsd, which protects, masks and keeps nothing
	Reserve Reserve `yaml:"reserve"` // 0 for none
}

// Mount is one more folder of the host. Source may be relative to the project.
type Mount struct {
	Source   string `yaml:"source" jsonschema:"required,minLength=1,description=folder of the host, absolute or relative to this file"`
	Target   string `yaml:"target" jsonschema:"required,pattern=^/,description=absolute path in the guest"`
	ReadOnly bool   `yaml:"readonly" jsonschema:"description=the guest may not write"`

	at Position
}

func (m *Mount) setPosition(at Position) { m.at = at }

// Network is what the guest may reach.
type Network struct {
	Default string   `yaml:"default" jsonschema:"enum=deny,enum=allow,description=for names that no rule matches; never private ranges or the host"`
	Presets []Text   `yaml:"presets" jsonschema:"description=built-in lists of hosts"`
	Allow   []Rule   `yaml:"allow" jsonschema:"description=names that may be reached: api.example.com or *.example.org:443\\,8443 or github.com:22/tcp"`
	Deny    []Rule   `yaml:"deny" jsonschema:"description=names that may not be reached"`
	Ask     Duration `yaml:"ask" jsonschema:"description=how long a connection that no rule covers waits for your answer; it is refused at once by default"`
}

// UserNetwork is Network in the user's file.
type UserNetwork struct {
	Default string     `yaml:"default"`
	Presets []Text     `yaml:"presets"`
	Allow   []Rule     `yaml:"allow"`
	Deny    []Rule     `yaml:"deny"`
	Ask     Duration   `yaml:"ask"`
	Proxy   string     `yaml:"proxy"` // environment, direct, or a URL
	Host    []HostRule `yaml:"host"`
}

// Docker is the guest's own daemon.
type Docker struct {
	Enabled bool `yaml:"enabled" jsonschema:"description=true by default"`
}
