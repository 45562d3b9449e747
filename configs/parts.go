package configs

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/machine"
)

// Bounds of what can be asked for.
const (
	minMemory = 512 * machine.MiB // a guest with Docker boots in no less
	minDisk   = 4 * machine.GiB   // the image unpacked, and some room
	maxDisk   = 16 * 1024 * machine.GiB
	maxRun    = 8 << 10  // bytes of one provisioning command
	maxEnv    = 32 << 10 // bytes of one variable
)

const (
	namePattern    = `^[a-z0-9][a-z0-9-]{0,38}$`
	packagePattern = `^[a-z0-9][a-z0-9+.-]{1,127}$` // Debian Policy 5.6.1
	envPattern     = `^[A-Za-z_][A-Za-z0-9_]{0,255}$`
)

func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }

// version refuses files that a newer sbx wrote. None means 1.
func (b *builder) version(written map[string]scalar) {
	if v, ok := written["version"]; ok && v.text != "1" {
		b.rep.add(v.at, "version %s is not known to this sbx: write version: 1", v.text)
	}
}

// name takes the one that was given, else makes one from the folder's.
func (b *builder) name() {
	b.c.Name = b.merged.Name
	if b.c.Name == "" {
		b.c.Name = Slug(filepath.Base(b.c.Project))
		b.listed("name", "default", Position{}, b.c.Name)
		return
	}
	if !matches(namePattern, b.c.Name) {
		v := b.where("name")
		b.rep.add(v.pos, "name %q: must be up to 39 of a-z, 0-9 and hyphens, and begin with no hyphen; %q would do",
			cut(b.c.Name), Slug(b.c.Name))
	}
}

// Slug makes a valid name of any text: lower case, everything else a hyphen.
func Slug(text string) string {
	var s strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			s.WriteRune(r)
		case s.Len() > 0 && !strings.HasSuffix(s.String(), "-"):
			s.WriteByte('-')
		}
		if s.Len() == 39 {
			break
		}
	}
	if slug := strings.TrimRight(s.String(), "-"); slug != "" {
		return slug
	}
	return "sandbox"
}

func (b *builder) agent() {
	if b.merged.Agent == "" {
		return
	}
	agent, err := FindAgent(b.merged.Agent)
	if err != nil {
		b.rep.add(b.where("agent").pos, "%v", err)
		return
	}
	b.c.Agent = agent
}

func (b *builder) resources() {
	r := b.merged.Resources
	b.c.Resources = machine.Resources{CPUs: int(r.CPUs), Memory: machine.Bytes(r.Memory), Disk: machine.Bytes(r.Disk)}
	if r.Memory != 0 && b.c.Resources.Memory < minMemory {
		b.rep.add(b.where("resources.memory").pos, "memory %s: must be at least %s", r.Memory, Size(minMemory))
	}
	if host := b.c.host.Memory; host > 0 && b.c.Resources.Memory > host {
		b.rep.add(b.where("resources.memory").pos, "memory %s: is more than this machine has (%s)", r.Memory, Size(host/machine.MiB*machine.MiB))
	}
	if d := b.c.Resources.Disk; r.Disk != 0 && (d < minDisk || d > maxDisk) {
		b.rep.add(b.where("resources.disk").pos, "disk %s: must be from %s to %s", r.Disk, Size(minDisk), Size(maxDisk))
	}
	if host := b.c.host.CPUs; host > 0 && b.c.Resources.CPUs > host {
		b.warn("%d virtual CPUs are more than the %d of this machine", b.c.Resources.CPUs, host)
	}
}

func (b *builder) image() {
	b.c.Image = ImageSpec{Base: b.merged.Image.Base, Mirror: b.merged.Image.Mirror}
	if b.c.Image.Base != BaseDebian {
		b.rep.add(b.where("image.base").pos, "unknown image %q%s (there is %s)", cut(b.c.Image.Base), suggest(b.c.Image.Base, []string{BaseDebian}), BaseDebian)
	}
	if v := b.where("image.mirror"); v.text != "" {
		b.mirror(v)
	}
	for _, p := range b.file.Image.Packages {
		if !matches(packagePattern, p.Text) {
			b.rep.add(p.at, "package %q: is no name of a Debian package", cut(p.Text))
		}
		b.c.Image.Packages = append(b.c.Image.Packages, p.Text)
		b.listed("image.packages", sourceProject, p.at, p.Text)
	}
	for _, line := range b.c.Agent.Run {
		b.c.Image.Agent = append(b.c.Image.Agent, line)
		b.listed("image.run", "agent "+b.c.Agent.Name, Position{}, line)
	}
	for _, line := range b.file.Image.Run {
		if line.Text == "" || len(line.Text) > maxRun || strings.ContainsRune(line.Text, 0) {
			b.rep.add(line.at, "image.run: a command must have 1 to %d bytes and no NUL", maxRun)
		}
		b.c.Image.Run = append(b.c.Image.Run, line.Text)
		b.listed("image.run", sourceProject, line.at, line.Text)
	}
}

// mirror is fetched from by the host, so a project's choice of it takes consent.
func (b *builder) mirror(v Value) {
	u, err := url.Parse(v.text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(v.text) > 512 {
		b.rep.add(v.pos, "mirror %q: must be an http or https address without user, query or fragment", cut(v.text))
		return
	}
	b.widen(v.Source, WidenMirror, v.text, v.pos)
}

func (b *builder) ports() {
	taken := map[machine.Port]bool{}
	for _, p := range b.file.Ports {
		b.listed("ports", sourceProject, p.at, fmt.Sprintf("%s:%d:%d", p.Host, p.Port.Port, p.Guest))
		b.c.Ports = append(b.c.Ports, p.Port)
		socket := machine.Port{Host: p.Host, Port: p.Port.Port}
		if socket.Port != 0 && taken[socket] {
			b.rep.add(p.at, "port %d of %s is published twice", socket.Port, socket.Host)
		}
		taken[socket] = true
		if addr, err := netip.ParseAddr(p.Host); err == nil && !addr.IsLoopback() {
			b.widen(sourceProject, WidenPort, fmt.Sprintf("guest port %d on %s port %d", p.Guest, p.Host, p.Port.Port), p.at)
		}
	}
}

func (b *builder) env() {
	b.c.Env = map[string]string{}
	for k, v := range b.c.Agent.Env {
		b.c.Env[k] = v
		b.listed("env."+k, "agent "+b.c.Agent.Name, Position{}, v)
	}
	keys := make([]string, 0, len(b.file.Env))
	for k := range b.file.Env {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := b.file.Env[k]
		if !matches(envPattern, k) {
			b.rep.add(v.at, "env %q: is no name of a variable", cut(k))
		}
		if len(v.Text) > maxEnv || strings.ContainsRune(v.Text, 0) {
			b.rep.add(v.at, "env %q: a value must have at most %d bytes and no NUL", cut(k), maxEnv)
		}
		b.c.Env[k] = v.Text
		b.listed("env."+k, sourceProject, v.at, v.Text)
	}
}
