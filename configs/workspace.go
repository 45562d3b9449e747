package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/sync/guard"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
)

// maxPath bounds a path in the guest (Linux' PATH_MAX).
const maxPath = 4095

func (b *builder) workspace() {
	mode := b.where("workspace.mode")
	w := machine.Workspace{Mode: mode.text, Target: b.merged.Workspace.Path}
	if !slices.Contains([]string{machine.ModeMount, machine.ModeSync, machine.ModeReview}, w.Mode) {
		b.rep.add(mode.pos, "workspace.mode %q: must be mount, sync or review", cut(mode.text))
	}
	at := b.where("workspace.path").pos
	if w.Target == "" {
		w.Target = b.c.Project
		b.listed("workspace.path", "default", Position{}, w.Target)
	}
	if err := CheckTarget(w.Target); err != nil {
		b.rep.add(at, "workspace path %q: %v; set workspace.path to another, such as /work", cut(w.Target), err)
	}
	b.projectFolder()
	w.Mounts = b.mounts(w.Target)
	for _, p := range b.file.Workspace.Protect {
		if err := checkProtect(p.Text); err != nil {
			b.rep.add(p.at, "workspace.protect %q: %v", cut(p.Text), err)
		}
		w.Protect = append(w.Protect, p.Text)
		b.listed("workspace.protect", sourceProject, p.at, p.Text)
	}
	w.Mask = b.masks()
	w.Ignore = b.ignored(w.Mode)
	w.Server = b.server(w)
	w.Reserve = b.reserve(w)
	b.c.Workspace = w
}

// server is who serves the folder in mode mount. Another than our own serves it as it is, and nothing beside it: what
// cannot be kept to is refused.
func (b *builder) server(w machine.Workspace) string {
	s := b.user.Workspace.Server
	if s.Text == "" {
		return ""
	}
	b.listed("workspace.server", sourceUser, s.at, s.Text)
	switch {
	case s.Text == machine.ServerOwn || w.Mode != machine.ModeMount:
		return ""
	case s.Text != machine.ServerVirtiofsd:
		b.rep.add(s.at, "workspace.server %q: must be sbx or virtiofsd", cut(s.Text))
	case b.c.host.OS != "linux":
		b.rep.add(s.at, "workspace.server virtiofsd: is for Linux")
	case len(b.file.Workspace.Protect) > 0:
		b.rep.add(b.file.Workspace.Protect[0].at, "workspace.protect: virtiofsd, which your own file chose at %s, protects nothing", s.at)
	case len(b.file.Workspace.Mask) > 0:
		b.rep.add(b.file.Workspace.Mask[0].at, "workspace.mask: virtiofsd, which your own file chose at %s, masks nothing", s.at)
	case len(b.file.Workspace.Mounts) > 0:
		b.rep.add(b.file.Workspace.Mounts[0].at, "workspace.mounts: virtiofsd, which your own file chose at %s, serves the project alone", s.at)
	default:
		b.warn("%s: virtiofsd serves the project as it is: nothing is protected or masked, no room is reserved, there is no diff and no undo", s.at)
	}
	return s.Text
}

// reserve is what stays free on the host's disk. It is the user's word; a project may only ask for more.
func (b *builder) reserve(w machine.Workspace) machine.Bytes {
	project, user := b.file.Workspace.Reserve, b.user.Workspace.Reserve
	kept, least := machine.Bytes(0), machine.DefaultReserve
	if user.set() {
		least = machine.Bytes(user.Size)
		if kept = least; kept == 0 {
			kept = machine.NoReserve
		}
	}
	source, from := sourceUser, user
	switch {
	case project.set() && project.Size == 0:
		b.rep.add(project.at, "workspace.reserve 0: a project can only ask for more than there is; your own file can turn it off")
	case project.set() && machine.Bytes(project.Size) >= least:
		source, from, kept = sourceProject, project, machine.Bytes(project.Size)
	}
	if from.set() {
		b.listed("workspace.reserve", source, from.at, from.String())
	}
	if kept > 0 && w.Server == machine.ServerVirtiofsd {
		b.rep.add(from.at, "workspace.reserve: virtiofsd, which your own file chose at %s, keeps none", b.user.Workspace.Server.at)
	}
	return kept
}

// ignored are the rules that modes sync and review leave things alone by.
func (b *builder) ignored(mode string) []string {
	var out []string
	for _, p := range b.file.Workspace.Ignore {
		if _, err := disk.NewIgnore([]string{p.Text}); err != nil {
			b.rep.add(p.at, "workspace.ignore: %v", err)
		}
		out = append(out, p.Text)
		b.listed("workspace.ignore", sourceProject, p.at, p.Text)
	}
	if len(out) > 0 && mode == machine.ModeMount {
		b.rep.add(b.file.Workspace.Ignore[0].at, "workspace.ignore is for the modes sync and review: in mode mount the guest works on the folder itself")
	}
	return out
}

// masks: what takes a mask back shows the guest what it would not see, and takes consent.
func (b *builder) masks() []string {
	var out []string
	for _, p := range b.file.Workspace.Mask {
		pattern, shown := strings.CutPrefix(p.Text, "!")
		if err := checkProtect(pattern); err != nil {
			b.rep.add(p.at, "workspace.mask %q: %v", cut(p.Text), err)
		}
		if shown {
			b.widen(sourceProject, WidenMask, pattern, p.at)
		}
		out = append(out, p.Text)
		b.listed("workspace.mask", sourceProject, p.at, p.Text)
	}
	return out
}

// projectFolder refuses the whole host and warns about the whole home, which
// holds keys and sessions of everything else.
func (b *builder) projectFolder() {
	home := b.home
	if real, err := filepath.EvalSymlinks(home); err == nil {
		home = real
	}
	switch {
	case b.c.Project == "/":
		b.rep.add(Position{}, "the project is the root folder: all of this machine's files would be shared")
	case home != "" && within(home, b.c.Project):
		b.warn("the project %s holds your home folder: the guest can read and change all of it", b.c.Project)
	}
}

// mounts resolves links now: what is shown for consent is what is shared.
func (b *builder) mounts(workspace string) []machine.Mount {
	var out []machine.Mount
	targets := []string{filepath.Clean(workspace)}
	for _, m := range b.file.Workspace.Mounts {
		source, err := b.mountSource(m.Source)
		if err != nil {
			b.rep.add(m.at, "mount source %q: %v", cut(m.Source), err)
			continue
		}
		if err := CheckTarget(m.Target); err != nil {
			b.rep.add(m.at, "mount target %q: %v", cut(m.Target), err)
			continue
		}
		if slices.Contains(targets, m.Target) {
			b.rep.add(m.at, "mount target %q: is taken", cut(m.Target))
			continue
		}
		targets = append(targets, m.Target)
		out = append(out, machine.Mount{Source: source, Target: m.Target, ReadOnly: m.ReadOnly})
		what := fmt.Sprintf("%q on %q, %s", source, m.Target, map[bool]string{true: "read only", false: "writable"}[m.ReadOnly])
		b.listed("workspace.mounts", sourceProject, m.at, what)
		if !within(source, b.c.Project) {
			b.widen(sourceProject, WidenMount, what, m.at)
			continue
		}
		protected, masked := b.guarded(source)
		switch {
		case m.ReadOnly:
		case b.where("workspace.mode").text == machine.ModeReview:
			b.rep.add(m.at, "mount source %q: is of the project, and mode review lets nothing reach it before sbx apply: add readonly: true", cut(m.Source))
		case protected:
			b.rep.add(m.at, "mount source %q: holds files of the project that the guest must not write: add readonly: true, or mount another folder", cut(m.Source))
		}
		if masked {
			b.widen(sourceProject, WidenMask, what, m.at)
		}
	}
	return out
}

// guarded tells whether a folder of the project holds what is protected or masked by a path that begins above
// the folder: in a share of its own it would be known by the rest of that path alone, and be neither.
func (b *builder) guarded(source string) (protected, masked bool) {
	rel := strings.Trim(strings.TrimPrefix(source, b.c.Project), "/")
	if rel == "" {
		return false, false
	}
	parts := strings.Split(rel, "/")
	// Own patterns that are wrong are reported where they stand.
	matcher, err := guard.New(valid(b.file.Workspace.Protect))
	if err != nil {
		return true, true
	}
	mask, err := guard.NewMask(valid(b.file.Workspace.Mask))
	if err != nil {
		return true, true
	}
	return matcher.Protected(parts) || len(matcher.Leads(parts)) > 0, mask.Masked(parts) || len(mask.Leads(parts)) > 0
}

// valid leaves the patterns out that are reported elsewhere.
func valid(patterns []Text) []string {
	var out []string
	for _, p := range patterns {
		if checkProtect(strings.TrimPrefix(p.Text, "!")) == nil {
			out = append(out, p.Text)
		}
	}
	return out
}

func (b *builder) mountSource(source string) (string, error) {
	if source == "" || strings.ContainsRune(source, 0) {
		return "", fmt.Errorf("must be a folder of this machine")
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(b.c.Project, source)
	}
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("is not a folder")
	case real == "/":
		return "", fmt.Errorf("is the root folder: all of this machine's files would be shared")
	}
	return real, nil
}

// within tells whether path is dir or below it. Both are clean and absolute.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// systemTrees are folders of the guest that nothing is mounted at or below;
// systemFolders nothing is mounted over, but below them is fine.
func systemTrees() []string {
	return []string{
		"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sbx", "/sys", "/usr",
		"/var/run", "/var/lib/apt", "/var/lib/containerd", "/var/lib/docker", "/var/lib/dpkg", "/var/log", "/lost+found",
	}
}

func systemFolders() []string {
	return []string{"/", "/home", "/home/agent", "/media", "/mnt", "/opt", "/srv", "/tmp", "/var", "/var/lib", "/var/cache", "/var/tmp"}
}

// CheckTarget tells why a path of the guest cannot be mounted over.
func CheckTarget(path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("must be absolute")
	case len(path) > maxPath || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("must have at most %d bytes and no control characters", maxPath)
	case filepath.Clean(path) != path:
		return fmt.Errorf("must be a plain path without \".\", \"..\", \"//\" or a slash at the end")
	}
	if slices.Contains(systemFolders(), path) {
		return fmt.Errorf("would hide a folder that the guest itself needs")
	}
	for _, tree := range systemTrees() {
		if within(path, tree) {
			return fmt.Errorf("is in %s, which the guest itself needs", tree)
		}
	}
	return nil
}

// checkProtect holds a pattern to paths inside the workspace.
func checkProtect(pattern string) error {
	switch {
	case pattern == "" || len(pattern) > maxPath:
		return fmt.Errorf("must have 1 to %d bytes", maxPath)
	case strings.HasPrefix(pattern, "/"):
		return fmt.Errorf("must be relative to the project")
	case slices.Contains(strings.Split(pattern, "/"), ".."):
		return fmt.Errorf("must stay in the project")
	case strings.ContainsFunc(pattern, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("must have no control characters")
	}
	_, err := guard.New([]string{pattern})
	return err
}
