package configs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/sbx-vm/sbx/machine"
)

// Setting is a scalar that every layer can give.
type Setting struct {
	Key  string // in the files
	Flag string // without the dashes
	Env  string
	Help string
}

// Settings lists the scalars; the command line makes its flags from it.
func Settings() []Setting {
	return []Setting{
		{"name", "name", "SBX_NAME", "name of the sandbox"},
		{"agent", "agent", "SBX_AGENT", "preset of a coding agent"},
		{"resources.cpus", "cpus", "SBX_CPUS", "number of virtual CPUs"},
		{"resources.memory", "memory", "SBX_MEMORY", "memory, such as 4GiB"},
		{"resources.disk", "disk", "SBX_DISK", "size of the disk, such as 20GiB"},
		{"image.base", "base", "SBX_BASE", "built-in recipe of the image"},
		{"image.mirror", "mirror", "SBX_MIRROR", "where Debian packages are fetched from"},
		{"workspace.mode", "mode", "SBX_MODE", "how the workspace is shared"},
		{"workspace.path", "path", "SBX_PATH", "path of the workspace in the guest"},
		{"network.default", "network", "SBX_NETWORK", "deny or allow, for names that no rule matches"},
		{"network.ask", "ask", "SBX_ASK", "how long a connection that no rule covers waits for your answer, such as 30s"},
		{"docker.enabled", "docker", "SBX_DOCKER", "true or false: the guest's own Docker"},
	}
}

// Value is one effective value and where it came from. Texts that a terminal
// might obey are quoted, so that all of it is safe to print.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // flag, env, project, user or default
	At     string `json:"at,omitempty"`

	text string // as it was written
	pos  Position
}

func newValue(key, value, source string, at Position) Value {
	return Value{Key: shown(key), Value: shown(value), Source: source, At: shown(at.String()), text: value, pos: at}
}

// layer is the scalars of one source.
type layer struct {
	source string
	values map[string]scalar
}

// scalars is what viper lays together.
type scalars struct {
	Name      string
	Agent     string
	Resources struct {
		CPUs   Count
		Memory Size
		Disk   Size
	}
	Image struct {
		Base   string
		Mirror string
	}
	Workspace struct {
		Mode string
		Path string
	}
	Network struct {
		Default string
		Ask     Duration
	}
	Docker struct {
		Enabled Toggle
	}
}

// overlay lays the layers, strongest first, over each other and gives the
// effective scalars and the origin of each. Values that do not fit their key are
// reported at their layer; a weaker layer does not stand in for a broken one.
func overlay(rep *report, layers []layer) (scalars, []Value) {
	v := viper.New()
	var values []Value
	for _, s := range Settings() {
		for _, l := range layers {
			if got, ok := l.values[s.Key]; ok {
				v.Set(s.Key, got.text)
				values = append(values, newValue(s.Key, got.text, l.source, got.at))
				break
			}
		}
	}
	var out scalars
	if err := v.UnmarshalExact(&out, viper.DecodeHook(mapstructure.TextUnmarshallerHookFunc())); err != nil {
		reportSettings(rep, layers)
		if len(rep.problems) == 0 {
			rep.add(Position{}, "%v", err)
		}
	}
	return out, values
}

// reportSettings names the layer and place of each value that does not parse.
// The files' own were reported when they were decoded.
func reportSettings(rep *report, layers []layer) {
	for _, l := range layers {
		for _, s := range Settings() {
			got, ok := l.values[s.Key]
			if t := typeOf(s.Key); ok && t != nil && (l.source == "flag" || l.source == "env" || s.Key == "resources.cpus") {
				if err := t.UnmarshalText([]byte(got.text)); err != nil {
					rep.add(got.at, "%s: %v", s.Key, err)
				}
			}
		}
	}
}

func typeOf(key string) texter {
	switch key {
	case "resources.cpus":
		return new(Count)
	case "resources.memory", "resources.disk":
		return new(Size)
	case "network.ask":
		return new(Duration)
	case "docker.enabled":
		return new(Toggle)
	}
	return nil
}

func defaults(h Host) layer {
	values := map[string]scalar{}
	for key, text := range map[string]string{
		"resources.cpus":   fmt.Sprint(h.cpus()),
		"resources.memory": Size(h.memory()).String(),
		"resources.disk":   Size(20 * machine.GiB).String(),
		"image.base":       BaseDebian,
		"workspace.mode":   h.mode(),
		"network.default":  "deny",
		"docker.enabled":   "true",
	} {
		values[key] = scalar{text: text}
	}
	return layer{"default", values}
}

func flagLayer(flags map[string]string) layer {
	values := map[string]scalar{}
	for _, s := range Settings() {
		if text, ok := flags[s.Flag]; ok {
			values[s.Key] = scalar{text, Position{File: "--" + s.Flag}}
		}
	}
	return layer{"flag", values}
}

// envLayer takes SBX_* variables. An empty one counts as not set. A variable that
// nearly has the name of a setting is a slip and gives a warning; others (SBX_HOME,
// SBX_ACCEL) belong to other parts of sbx.
func envLayer(env map[string]string) (layer, []string) {
	values := map[string]scalar{}
	var known, warnings []string
	for _, s := range Settings() {
		known = append(known, s.Env)
		if text := env[s.Env]; text != "" {
			values[s.Key] = scalar{text, Position{File: "$" + s.Env}}
		}
	}
	for key := range env {
		if hint := suggest(key, known); strings.HasPrefix(key, "SBX_") && !slices.Contains(append(known, "SBX_HOME"), key) && hint != "" {
			warnings = append(warnings, fmt.Sprintf("unknown variable %s%s", key, hint))
		}
	}
	slices.Sort(warnings)
	return layer{"env", values}, warnings
}
